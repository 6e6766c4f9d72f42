// Sums and maxima of a warp and of a block.
#pragma once
#include "part/math.cuh"

constexpr u32 WARP = 32;
constexpr u32 ALL = 0xffffffffu;

__device__ inline float warp_sum(float value) {
    for (u32 step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL, value, step);
    return value;
}

__device__ inline float warp_max(float value) {
    for (u32 step = WARP / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(ALL, value, step));
    return value;
}

__device__ inline u32 warp_sum(u32 value) { return __reduce_add_sync(ALL, value); }

// The sum over a block of THREADS_ threads, for all of them. `shared` has a place for each warp; all threads take part, and may use it again
// after the next barrier.
template <u32 THREADS_, typename T>
__device__ inline T block_sum(T value, T* shared) {
    value = warp_sum(value);
    if (THREADS_ == WARP) return value;
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = value;
    __syncthreads();
    T total = shared[0];
    for (u32 warp = 1; warp < THREADS_ / WARP; warp++) total += shared[warp];
    return total;
}
