// Attention: tokens of views, weights, and splits of a view that different blocks attend to.
#pragma once
#include "part/arrive.cuh"
#include "part/math.cuh"
#include "part/view.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
// Stands for the largest score where there was none: above LEAST, so that masked scores weigh nothing, and below every score.
constexpr float UNSEEN = -1e28f;
// Weights refer to a number that follows the largest score once that exceeds it by so much, in units of log2: they fit f16.
constexpr float SLACK = 10.0f;
// The least sum of weights to divide by.
constexpr float LEAST_WEIGHT = 1e-30f;

__device__ inline float power_of_two(float exponent) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return power;
}

__device__ inline float4 scaled(float4 value, float by) { return make_float4(value.x * by, value.y * by, value.z * by, value.w * by); }

// What f16 leaves of a number: both as f16 make nearly the whole.
__device__ inline float minor_part(float value) { return value - f32_of(f16_of(value)); }

__device__ inline float4 minor_part(float4 value) {
    return make_float4(minor_part(value.x), minor_part(value.y), minor_part(value.z), minor_part(value.w));
}

// Whether neither neighbour of a row reads its view.
__device__ inline bool is_lone(const RowDesc* rows, u32 row, u32 row_count) {
    u32 view = rows[row].view;
    return (row == 0 || rows[row - 1].view != view) && (row + 1 >= row_count || rows[row + 1].view != view);
}

// Tokens of each of a view's splits but the last, a multiple of `unit`.
__device__ inline u32 split_tokens(u32 length, u32 splits, u32 unit) {
    return max(round_up(ceil_div(length, splits), unit), unit);
}

// Loads what may have changed since it was loaded before: past the first cache, and whatever the compiler knows.
__device__ inline u32 load_again(const u32* from) {
    u32 value;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

__device__ inline ViewDesc load_again(const ViewDesc* from) {
    ViewDesc view;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(view.first), "=r"(view.length), "=r"(view.last), "=r"(view.run) : "l"(from) : "memory");
    return view;
}

// What a row at `position` sees of one of a view's splits, of those that hold any: tokens from `begin` to `end`.
struct Share {
    u32 used, begin, end;

    __device__ Share(ViewDesc view, u32 position, u32 splits, u32 split, u32 unit) {
        u32 visible = view_visible(view, position);
        u32 tokens = split_tokens(view.length, splits, unit);
        used = min(max(ceil_div(visible, tokens), 1u), splits);
        begin = split * tokens;
        end = min(begin + tokens, visible);
    }
};

// Brings bytes, of which there are a multiple of 16, into the second cache, where kernels may be under way before their inputs are there.
__device__ inline void prefetch(const void* from, u32 bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

// Four elements of a query's result from those of its splits: `sums` holds [query][split][quad], `stats` [query][split] as what weights refer to
// and their sum.
__device__ inline float4 merge_splits(const float4* sums, const float2* stats, u64 query, u32 splits, u32 used, u32 quads, u32 quad) {
    // Splits that are loaded at once.
    constexpr u32 LOADS = 16;
    stats += query * splits;
    sums += query * splits * quads + quad;
    float largest = LEAST;
    float weight = 0.0f;
    float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (u32 first = 0; first < used; first += LOADS) {
        float2 stat[LOADS];
        float4 sum[LOADS];
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            u32 split = min(first + i, used - 1);
            stat[i] = __ldcg(stats + split);
            sum[i] = __ldcg(sums + u64(split) * quads);
        }
        float fresh = largest;
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) fresh = fmaxf(fresh, stat[i].x);
        float keep = power_of_two(largest - fresh);
        largest = fresh;
        weight *= keep;
        value = scaled(value, keep);
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            float factor = first + i < used ? power_of_two(stat[i].x - largest) : 0.0f;
            weight += factor * stat[i].y;
            value = make_float4(value.x + factor * sum[i].x, value.y + factor * sum[i].y, value.z + factor * sum[i].z, value.w + factor * sum[i].w);
        }
    }
    return scaled(value, 1.0f / fmaxf(weight, LEAST_WEIGHT));
}
