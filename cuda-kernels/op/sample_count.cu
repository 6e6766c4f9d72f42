// What: heads += how many tokens each bin of a row's histogram holds, and what they weigh at a temperature of 1, for rows that rank.
// Contract: engine/contract/src/op/sample.rs
// Grid: x = chunks, y = rows; a thread takes every 256th token.
// Shared: 3 KiB for the chunk's histogram, marks of recent tokens, and what warps found.
// Numerics: weights are integers below 2^32; those of a chunk are added in halves of 16 bits, which shared memory adds at once.
//:threads 256
#include "part/launch.cuh"
#include "part/sample.cuh"

// pitch: elements of a row of logits. recents: tokens of the list of recent ones.
extern "C" __global__ void __launch_bounds__(THREADS) sample_count(
    const u32* logits, const SampleDesc* samplings, const u32* recent, const u32* count, const u64* firsts, RowHead* heads,
    u32 rows, u32 vocabulary, u32 pitch, u32 recents, u32 chunks) {
    __shared__ Marks marks;
    __shared__ u64 found[THREADS / WARP];
    __shared__ u32 tokens[BINS], lower[BINS], upper[BINS];
    wait_for_inputs();
    release_dependents();
    u32 thread = threadIdx.x, index = blockIdx.y;
    if (index >= min(*count, rows)) return;
    SampleRow row = {logits + u64(index) * pitch, vocabulary, samplings[index]};
    if (row.desc.rate == 0.0f || !ranks(row.desc)) return;
    u64 best = first_of_row(firsts + u64(index) * chunks, chunks, found);
    if (best == NOWHERE) return;
    float largest = logit_at(best);
    u32 first = blockIdx.x * CHUNK;
    tokens[thread] = lower[thread] = upper[thread] = 0;
    marks.set(row.desc, recent, recents, first);
#pragma unroll
    for (u32 i = 0; i < CHUNK / THREADS; i++) {
        u64 order = order_in_chunk(row, marks, first, i * THREADS + thread);
        if (order == NOWHERE) continue;
        u32 bin = bin_of(largest, logit_at(order));
        u32 weight = weight_of(UNIT_RATE, largest, logit_at(order));
        atomicAdd(&tokens[bin], 1u);
        if (weight == 0) continue;
        atomicAdd(&lower[bin], weight & 0xffff);
        atomicAdd(&upper[bin], weight >> 16);
    }
    __syncthreads();
    if (tokens[thread] == 0) return;
    atomicAdd(&heads[index].tokens[thread], tokens[thread]);
    atomicAdd(&heads[index].weights[thread], (u64(upper[thread]) << 16) + lower[thread]);
}
