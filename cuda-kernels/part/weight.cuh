// Rows of a weight matrix of any type: codes, then scales (engine/contract/src/dtype.rs). A chunk is 16 bytes of codes.
#pragma once
#include "part/math.cuh"

enum WeightType { F16, Q4, Q8G32, Q8G16, Q8G32M };

// A row's chunks, and where its scales begin, in chunks.
struct WeightRow {
    const uint4* chunks;
    u32 scale_offset;

    __device__ const u32* scale_words() const { return reinterpret_cast<const u32*>(chunks + scale_offset); }
    __device__ u32 scale_word(u32 index) const { return scale_words()[index]; }
};

template <WeightType TYPE>
struct Weight {
    // Elements of a chunk, and those that share a scale.
    static constexpr u32 ELEMENTS = TYPE == F16 ? 8 : TYPE == Q4 ? 32 : 16;
    static constexpr u32 GROUP = TYPE == Q8G16 ? 16 : 32;
    static constexpr bool HAS_MINIMUM = TYPE == Q4 || TYPE == Q8G32M;

    // Which of a row's scale words has a group's scale, and the scale and the minimum in it.
    static __device__ u32 scale_index(u32 group) { return HAS_MINIMUM ? group : group / 2; }

    static __device__ float2 scale_in(u32 word, u32 group) {
        if (HAS_MINIMUM) return make_float2(f32_low(word), f32_high(word));
        return make_float2(f32_of(f16(word >> (16 * (group & 1)))), 0.0f);
    }

    // The scale and the minimum of a group.
    static __device__ float2 scale(WeightRow row, u32 group) { return scale_in(row.scale_word(scale_index(group)), group); }

    // Elements 4 * quad to 4 * quad + 3.
    static __device__ float4 quad(WeightRow row, u32 quad) {
        const u32* words = reinterpret_cast<const u32*>(row.chunks);
        if (TYPE == F16) {
            u32 low = words[2 * quad], high = words[2 * quad + 1];
            return make_float4(f32_low(low), f32_high(low), f32_low(high), f32_high(high));
        }
        float2 with = scale(row, quad / (GROUP / 4));
        float code[4];
        for (u32 i = 0; i < 4; i++) {
            if (TYPE == Q4) code[i] = float(words[quad / 2] >> (16 * (quad & 1) + 4 * i) & 15u);
            else if (TYPE == Q8G32M) code[i] = float(words[quad] >> (8 * i) & 255u);
            else code[i] = float(i8(words[quad] >> (8 * i)));
        }
        return make_float4(code[0] * with.x + with.y, code[1] * with.x + with.y, code[2] * with.x + with.y, code[3] * with.x + with.y);
    }
};
