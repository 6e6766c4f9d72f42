// The nearest references of a token, as parts of the candidates are searched one by one.
#pragma once
#include "part/exact_load.cuh"

// Further than any candidate.
constexpr float FAR = 3.0e38f;

// Candidates that are measured at a time.
constexpr u32 CANDIDATES = 64;

// How the candidates of a block are cut into parts, of which the last may be empty: those of all its tokens, and of a part.
struct CandidateParts {
    u32 all;
    u32 share;

    // `earlier`: candidates before the block.
    static __device__ CandidateParts cut(u32 earlier, u32 stride, u32 splits) {
        u32 all = earlier + (BLOCK - 1) / stride + 1;
        return {all, ceil_div(all, CANDIDATES * splits) * CANDIDATES};
    }
};

// The nearest first, and of equal ones the one that came first.
struct Nearest {
    float distances[MOST_NEIGHBOURS];
    u32 ordinals[MOST_NEIGHBOURS];

    __device__ void clear() {
        #pragma unroll
        for (u32 i = 0; i < MOST_NEIGHBOURS; i++) {
            distances[i] = FAR;
            ordinals[i] = 0;
        }
    }

    __device__ void offer(float distance, u32 ordinal) {
        if (!(distance < distances[MOST_NEIGHBOURS - 1])) return;
        // Once it has found its place, all after it move on by one.
        bool placed = false;
        #pragma unroll
        for (u32 i = 0; i < MOST_NEIGHBOURS; i++) {
            placed = placed || distance < distances[i];
            if (placed) {
                float moved_distance = distances[i];
                u32 moved = ordinals[i];
                distances[i] = distance;
                ordinals[i] = ordinal;
                distance = moved_distance;
                ordinal = moved;
            }
        }
    }
};
