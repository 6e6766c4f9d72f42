// What: firsts = the largest logit of each chunk of each row, with its token; heads = zeros, where any row draws.
// Contract: engine/contract/src/op/sample.rs
// Grid: x = chunks, y = rows; a thread takes every 256th token.
// Shared: marks of recent tokens, and what warps found.
// Numerics: logits are compared as integers in their order; a penalty rounds once.
//:threads 256
#include "part/launch.cuh"
#include "part/sample.cuh"

// pitch: elements of a row of logits. recents: tokens of the list of recent ones. draws: whether any row draws.
extern "C" __global__ void __launch_bounds__(THREADS) sample_scan(
    const u32* logits, const SampleDesc* samplings, const u32* recent, const u32* count, u64* firsts, RowHead* heads,
    u32 rows, u32 vocabulary, u32 pitch, u32 recents, u32 chunks, u32 draws) {
    __shared__ Marks marks;
    __shared__ u64 found[THREADS / WARP];
    wait_for_inputs();
    release_dependents();
    u32 index = blockIdx.y;
    if (index >= min(*count, rows)) return;
    SampleRow row = {logits + u64(index) * pitch, vocabulary, samplings[index]};
    u32 first = blockIdx.x * CHUNK;
    marks.set(row.desc, recent, recents, first);
    u64 best = NOWHERE;
#pragma unroll
    for (u32 i = 0; i < CHUNK / THREADS; i++) best = min(best, order_in_chunk(row, marks, first, i * THREADS + threadIdx.x));
    best = first_of_all(best, found);
    if (threadIdx.x == 0) firsts[u64(index) * chunks + blockIdx.x] = best;
    if (draws != 0 && blockIdx.x == 0) {
        heads[index].tokens[threadIdx.x] = 0;
        heads[index].weights[threadIdx.x] = 0;
        if (threadIdx.x == 0) heads[index].listed = 0;
    }
}
