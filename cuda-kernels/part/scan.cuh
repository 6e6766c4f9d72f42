// Sums over the threads of a block in their order.
#pragma once
#include "part/reduce.cuh"

// The sum over the threads of a warp up to this one.
template <typename T>
__device__ inline T warp_scan(T value) {
    u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 step = 1; step < WARP; step *= 2) {
        T other = __shfl_up_sync(ALL, value, step);
        if (lane >= step) value += other;
    }
    return value;
}

// The sum over the threads before one, and that over all.
template <typename T>
struct Scanned {
    T before;
    T all;
};

// Scans a block of THREADS_ threads, all of which take part. `shared` has a place for each warp, and may be used again after the next barrier.
template <u32 THREADS_, typename T>
__device__ inline Scanned<T> block_scan(T value, T* shared) {
    constexpr u32 WARPS = THREADS_ / WARP;
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    T up_to = warp_scan(value);
    __syncthreads();
    if (lane == WARP - 1) shared[warp] = up_to;
    __syncthreads();
    // Every warp adds up all of them, which saves a barrier.
    T sums = warp_scan(lane < WARPS ? shared[lane] : T(0));
    T earlier = __shfl_sync(ALL, sums, warp > 0 ? warp - 1 : 0);
    return {up_to - value + (warp > 0 ? earlier : T(0)), __shfl_sync(ALL, sums, WARPS - 1)};
}
