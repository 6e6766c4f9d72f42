// Exact rows, as they are staged, stored raw, or stored in latent blocks; and the mean of a few.
#pragma once
#include "part/latent.cuh"
#include "part/reduce.cuh"

// References of a token at most.
constexpr u32 MOST_NEIGHBOURS = 8;

// A row of f16, or of bytes around the layer's mean with scales behind them.
struct ExactRow {
    const u32* words;
    bool is_half;

    // The words of elements 4 * quad to 4 * quad + 3: both hold elements, or one does and the other two scales.
    __device__ uint2 load(u32 quad, u32 cols) const {
        return make_uint2(words[is_half ? 2 * quad : quad], words[is_half ? 2 * quad + 1 : cols / 4 + quad / 16]);
    }

    // Those elements; `middle` are the mean's.
    __device__ float4 decode(uint2 loaded, u32 quad, float4 middle) const {
        if (is_half) return make_float4(f32_low(loaded.x), f32_high(loaded.x), f32_low(loaded.y), f32_high(loaded.y));
        float scale = quad & 8 ? f32_high(loaded.y) : f32_low(loaded.y);
        return make_float4(
            middle.x + scale * signed_byte(loaded.x, 0), middle.y + scale * signed_byte(loaded.x, 1),
            middle.z + scale * signed_byte(loaded.x, 2), middle.w + scale * signed_byte(loaded.x, 3));
    }

    // A byte less 128: as the low byte of 2^23 it is a float without a conversion.
    static __device__ float signed_byte(u32 word, u32 index) {
        return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u + index)) - 8388736.0f;
    }
};

// Where the exact rows of references lie.
struct References {
    Records<const u32> records;
    BlockShape shape;
    u32 exact_words;
    bool exact_f16;

    // Reference `number` since the first block of the sequence whose blocks begin at entry `first`.
    __device__ ExactRow row(u32 first, u32 number) const {
        const u32* record = records.record(first, number / shape.references);
        return {record + number % shape.references * exact_words, exact_f16};
    }
};

// Ordinal `index` of a coded token, of which each has `words` words from `ordinals` on.
__device__ inline u32 ordinal(const u32* ordinals, u32 words, u32 coded, u32 index) {
    return reinterpret_cast<const unsigned short*>(ordinals + coded * words)[index];
}

// A few rows, which each warp keeps in shared memory: as registers they would be most of what a thread has.
struct ExactRows {
    const ExactRow* rows;
    u32 count;

    // The rows of which thread i of the warp has number i. All its threads call it; `room` is the warp's.
    static __device__ ExactRows gather(ExactRow own, u32 count, ExactRow (&room)[MOST_NEIGHBOURS]) {
        // All have read what was there.
        __syncwarp();
        if (threadIdx.x % WARP < MOST_NEIGHBOURS) room[threadIdx.x % WARP] = own;
        __syncwarp();
        return {room, count};
    }

    // The mean of their elements 4 * quad to 4 * quad + 3; zeros where there are none. `share` is 1 / count.
    __device__ float4 mean(u32 quad, u32 cols, float4 middle, float share) const {
        constexpr u32 BATCH = 4;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        #pragma unroll
        for (u32 first = 0; first < MOST_NEIGHBOURS; first += BATCH) {
            uint2 loaded[BATCH];
            #pragma unroll
            for (u32 i = 0; i < BATCH; i++) {
                if (first + i < count) loaded[i] = rows[first + i].load(quad, cols);
            }
            #pragma unroll
            for (u32 i = 0; i < BATCH; i++) {
                if (first + i >= count) continue;
                float4 value = rows[first + i].decode(loaded[i], quad, middle);
                sum = make_float4(sum.x + value.x, sum.y + value.y, sum.z + value.z, sum.w + value.w);
            }
        }
        return make_float4(sum.x * share, sum.y * share, sum.z * share, sum.w * share);
    }
};
