// Writes exact rows of latent blocks: the same bytes on every backend.
#pragma once
#include "part/latent.cuh"
#include "part/reduce.cuh"

// Elements that a warp writes at a time, four a thread.
constexpr u32 EXACT_PART = 4 * WARP;

// Threads of a warp that write a group.
constexpr u32 GROUP_THREADS = EXACT_GROUP / 4;

// Writes part `part` of a staged row into the exact row at `words`. All threads of a warp call it.
__device__ inline void store_exact(const uint2* staged, const float4* mean, u32* words, u32 cols, bool exact_f16, u32 part) {
    u32 lane = threadIdx.x % WARP;
    u32 quad = part * WARP + lane;
    bool counts = quad < cols / 4;
    uint2 halves = counts ? staged[quad] : make_uint2(0, 0);
    if (exact_f16) {
        if (!counts) return;
        words[2 * quad] = halves.x;
        words[2 * quad + 1] = halves.y;
        return;
    }
    float4 middle = counts ? mean[quad] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float apart[4] = {
        f32_low(halves.x) - middle.x, f32_high(halves.x) - middle.y,
        f32_low(halves.y) - middle.z, f32_high(halves.y) - middle.w};
    float largest = fmaxf(fmaxf(fabsf(apart[0]), fabsf(apart[1])), fmaxf(fabsf(apart[2]), fabsf(apart[3])));
    #pragma unroll
    for (u32 step = GROUP_THREADS / 2; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, step));
    u32 bits = f16_of(__fdiv_rn(largest, 127.0f));
    float scale = f32_of(f16(bits));
    u32 word = 0;
    #pragma unroll
    for (u32 i = 0; i < 4; i++) {
        float steps = scale > 0.0f ? __fdiv_rn(apart[i], scale) : 0.0f;
        word |= u32(__float2int_rn(fminf(fmaxf(steps, -127.0f), 127.0f)) + 128) << (8 * i);
    }
    // The scales of two groups share a word; beyond the row's end there are only zeros.
    u32 next = __shfl_down_sync(ALL, bits, GROUP_THREADS);
    if (!counts) return;
    words[quad] = word;
    if (quad % (2 * GROUP_THREADS) == 0) words[cols / 4 + quad / (2 * GROUP_THREADS)] = bits | next << 16;
}
