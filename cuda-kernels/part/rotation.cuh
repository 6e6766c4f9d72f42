// The rotary embedding.
#pragma once
#include "part/math.cuh"

// The table's rows of a position, by whose addition theorem its angles come about (engine/contract/src/op/rope.rs).
struct Rotation {
    const float* low;
    const float* high;
    u32 half;

    // `rows`: of the table. `pitch`: elements of one.
    static __device__ Rotation at(const float* rope, u32 position, u32 rows, u32 pitch, u32 head_dim) {
        u32 high = min(ROPE_LOW + position / ROPE_LOW, rows - 1);
        return {rope + u64(position % ROPE_LOW) * pitch, rope + u64(high) * pitch, head_dim / 2};
    }

    // Cosine and sine of the angle of the pair of elements j and j + half. Rows are cosines and then sines.
    __device__ float2 angle(u32 j) const {
        float2 a = make_float2(low[j], low[j + half]), b = make_float2(high[j], high[j + half]);
        return make_float2(a.x * b.x - a.y * b.y, a.y * b.x + a.x * b.y);
    }

    // Turns elements j and j + half of a head, for `COUNT` values of j from `first` on. Where there are four, they are aligned.
    template <u32 COUNT>
    __device__ void turn(u32 first, float (&a)[COUNT], float (&b)[COUNT]) const {
        float low_cos[COUNT], low_sin[COUNT], high_cos[COUNT], high_sin[COUNT];
        load(low + first, low_cos);
        load(low + half + first, low_sin);
        load(high + first, high_cos);
        load(high + half + first, high_sin);
        #pragma unroll
        for (u32 i = 0; i < COUNT; i++) {
            float cos = low_cos[i] * high_cos[i] - low_sin[i] * high_sin[i];
            float sin = low_sin[i] * high_cos[i] + low_cos[i] * high_sin[i];
            float x = a[i], y = b[i];
            a[i] = x * cos - y * sin;
            b[i] = y * cos + x * sin;
        }
    }

    static __device__ void load(const float* from, float (&to)[1]) { to[0] = *from; }
    static __device__ void load(const float* from, float (&to)[4]) {
        float4 four = *reinterpret_cast<const float4*>(from);
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
    }
};
