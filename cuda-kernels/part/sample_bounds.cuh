// Which bins of a row's histogram stay as a whole, and which hold tokens that are to be ranked.
#pragma once
#include "part/sample.cuh"

// How many tokens, and what they weigh at a temperature of 1.
struct Tally {
    u32 tokens;
    u64 weight;
};

struct Bounds {
    // Bins before this one stay; from `stop` on none do. Those between are listed.
    u32 sure;
    u32 stop;
    // Whether `top_k` leaves tokens out.
    bool ranked;
    // The tokens in the bins that stay.
    Tally before;
    // The weights of all tokens.
    u64 total;
};

// What the threads of a block share to find bounds.
struct BoundsSearch {
    u64 weights[THREADS / WARP];
    u32 tokens[THREADS / WARP];
    u32 bin;
    Tally before;
};

// The bins of a row; all threads take part. Where nothing is ranked there is no histogram, and all stay.
__device__ inline Bounds row_bounds(const SampleDesc& desc, const RowHead& head, BoundsSearch* shared) {
    Bounds bounds = {BINS, BINS, false, {0, 0}, 0};
    if (!ranks(desc)) return bounds;
    Tally own = {head.tokens[threadIdx.x], head.weights[threadIdx.x]};
    Scanned<u32> tokens = block_scan<THREADS>(own.tokens, shared->tokens);
    Scanned<u64> weights = block_scan<THREADS>(own.weight, shared->weights);
    Tally before = {tokens.before, weights.before};
    // The thread in whose bin a filter ends says what lies before it.
    auto end_at = [&](bool here) {
        __syncthreads();
        if (here) {
            shared->bin = threadIdx.x;
            shared->before = before;
        }
        __syncthreads();
        bounds.before = shared->before;
        return shared->bin;
    };
    bounds.total = weights.all;
    u64 sum = weights.all;
    if (desc.top_k != 0 && desc.top_k < tokens.all) {
        bounds.sure = end_at(before.tokens < desc.top_k && desc.top_k <= before.tokens + own.tokens);
        bounds.stop = bounds.sure + 1;
        bounds.ranked = true;
        // The least that the tokens which `top_k` leaves can weigh.
        sum = bounds.before.weight;
    }
    if (desc.top_p != KEEP_ALL) {
        u64 least = max(share_of(sum, desc.top_p), u64(1));
        bounds.sure = end_at(before.weight < least && least <= before.weight + own.weight);
        if (!bounds.ranked) bounds.stop = bounds.sure + 1;
    }
    return bounds;
}
