// What: sums = what the tokens of each chunk weigh that stay whatever their rank; listed = the tokens of each row whose rank decides, in any order.
// Contract: engine/contract/src/op/sample.rs
// Grid: x = chunks, y = rows; a thread takes every 256th token.
// Shared: marks of recent tokens, and sums.
// Numerics: integers of 64 bits.
//:threads 256
#include "part/launch.cuh"
#include "part/sample_bounds.cuh"

// pitch: elements of a row of logits. recents: tokens of the list of recent ones.
extern "C" __global__ void __launch_bounds__(THREADS) sample_list(
    const u32* logits, const SampleDesc* samplings, const u32* recent, const u32* count, const u64* firsts, RowHead* heads, u64* sums, u64* listed,
    u32 rows, u32 vocabulary, u32 pitch, u32 recents, u32 chunks) {
    __shared__ Marks marks;
    __shared__ BoundsSearch search;
    __shared__ u32 place;
    wait_for_inputs();
    release_dependents();
    u32 index = blockIdx.y;
    if (index >= min(*count, rows)) return;
    SampleRow row = {logits + u64(index) * pitch, vocabulary, samplings[index]};
    if (row.desc.rate == 0.0f) return;
    u64 best = first_of_row(firsts + u64(index) * chunks, chunks, search.weights);
    if (best == NOWHERE) return;
    float largest = logit_at(best);
    Bounds bounds = row_bounds(row.desc, heads[index], &search);
    u32 first = blockIdx.x * CHUNK;
    marks.set(row.desc, recent, recents, first);
    u64 orders[CHUNK / THREADS];
    u64 sum = 0;
    u32 lists = 0;
#pragma unroll
    for (u32 i = 0; i < CHUNK / THREADS; i++) {
        orders[i] = order_in_chunk(row, marks, first, i * THREADS + threadIdx.x);
        if (orders[i] == NOWHERE) continue;
        float logit = logit_at(orders[i]);
        u32 bin = bin_of(largest, logit);
        if (bin < bounds.sure) {
            if (weight_of(UNIT_RATE, largest, logit) >= row.desc.min_p) sum += weight_of(row.desc.rate, largest, logit);
            orders[i] = NOWHERE;
        } else if (bin >= bounds.stop) {
            orders[i] = NOWHERE;
        } else {
            lists++;
        }
    }
    sum = block_scan<THREADS>(sum, search.weights).all;
    Scanned<u32> scanned = block_scan<THREADS>(lists, search.tokens);
    if (threadIdx.x == 0) {
        sums[u64(index) * chunks + blockIdx.x] = sum;
        if (scanned.all != 0) place = atomicAdd(&heads[index].listed, scanned.all);
    }
    __syncthreads();
    if (lists == 0) return;
    u64* to = listed + u64(index) * vocabulary + place + scanned.before;
#pragma unroll
    for (u32 i = 0; i < CHUNK / THREADS; i++) {
        if (orders[i] != NOWHERE) *to++ = orders[i];
    }
}
