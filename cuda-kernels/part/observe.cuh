// What the kernels of `observe` leave for one another: logits in powers of two, and how large those of a head are.
#pragma once
#include "part/reduce.cuh"

// Query heads that share the reads of a key head: a unit. Where fewer are left, the rest of it belongs to no head.
constexpr u32 HEADS = 4;
// Candidates of a tile, which a warp takes.
constexpr u32 TILE = 128;
// What no head's share exceeds: the logarithm of the sum where there is no head.
constexpr float NO_HEAD = 1e30f;

// The largest of some logits, and the sum of the powers of two against it.
struct Peak {
    float largest;
    float sum;

    __device__ void add(Peak other) {
        float most = fmaxf(largest, other.largest);
        sum = sum * exp2f(largest - most) + other.sum * exp2f(other.largest - most);
        largest = most;
    }

    // Adds those of all lanes whose numbers differ in the bits from `step` up.
    __device__ void add_lanes(u32 step) {
#pragma unroll
        for (; step < WARP; step *= 2) add({__shfl_xor_sync(ALL, largest, step), __shfl_xor_sync(ALL, sum, step)});
    }
};

// The peaks of a unit's heads over one tile.
struct Record {
    Peak heads[HEADS];
};

// A unit's largest logits, and the logarithms of its sums.
struct Stats {
    float4 largest;
    float4 logarithm;
};
