// Blocks that share work, of which the last to end makes one result of all.
#pragma once
#include "part/math.cuh"

// How many of the blocks that share work have done their part, by place. Modules are loaded with zeros and every launch leaves zeros, so
// that none has to be written before; launches of one kernel must not run at the same time.
__device__ u32 arrivals[4096];

// Whether the block is the last of `blocks` to arrive at a place, and so sees what the others wrote. All threads take part.
__device__ inline bool is_last_block(u32 place, u32 blocks) {
    __shared__ u32 arrived;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        arrived = atomicAdd(&arrivals[place], 1u) + 1;
        if (arrived == blocks) arrivals[place] = 0;
    }
    __syncthreads();
    __threadfence();
    return arrived == blocks;
}
