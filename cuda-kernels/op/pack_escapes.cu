// What: the tokens of each block with the largest errors as exact rows into `latents`, and zeros into what is left of the record.
// Contract: engine/contract/src/op/pack.rs
// Grid: x = blocks, y = shares of their work; 128 threads, a token each and then a warp 128 columns of a row.
// Shared: 1.5 KiB of errors and chosen tokens.
// Numerics: errors are ordered as f64; exact rows are rounded on every device alike.
//:threads 128
#include "part/exact_store.cuh"
#include "part/launch.cuh"

// No token.
constexpr u32 NOBODY = 0xffffffffu;

// capacity: blocks at most. words: words of a record. parts: parts of a row.
extern "C" __global__ void __launch_bounds__(THREADS) pack_escapes(
    const double* errors, const uint2* staged, const BlockDesc* blocks, const u32* count, const u32* entries, const float4* mean,
    u32* latents,
    u32 capacity, u32 cols, u32 words, u32 stride, u32 references, u32 exact_words, u32 exact_f16, u32 escapes_at, u32 escapes,
    u32 parts) {
    release_dependents();
    wait_for_inputs();
    if (blockIdx.x >= min(*count, capacity)) return;
    __shared__ double all[BLOCK];
    __shared__ u32 chosen[BLOCK];
    u32 thread = threadIdx.x;
    BlockShape shape = {stride, references};
    BlockDesc block = blocks[blockIdx.x];
    u32* to = Records<u32>{latents, entries, words}.record(block.blocks, block.index) + escapes_at;
    // References come last, below every error.
    double own = shape.is_reference(thread) ? -1.0e300 : errors[u64(blockIdx.x) * BLOCK + thread];
    all[thread] = own;
    chosen[thread] = NOBODY;
    __syncthreads();
    if (!shape.is_reference(thread)) {
        u32 worse = 0;
        #pragma unroll 8
        for (u32 other = 0; other < BLOCK; other++) worse += all[other] > own || (all[other] == own && other < thread);
        chosen[worse] = thread;
    }
    __syncthreads();
    u32* rows = to + escapes;
    u32 warps = THREADS / WARP;
    for (u32 i = blockIdx.y * warps + thread / WARP; i < escapes * parts; i += gridDim.y * warps) {
        u32 lane = chosen[i / parts];
        if (lane == NOBODY) break;
        const uint2* source = staged + u64(block.source + lane) * (cols / 4);
        store_exact(source, mean, rows + i / parts * exact_words, cols, exact_f16 != 0, i % parts);
    }
    if (blockIdx.y != 0) return;
    if (thread < escapes) to[thread] = chosen[thread];
    // Rows without a token, and what fills up the record.
    u32 used = escapes + min(escapes, BLOCK - references) * exact_words;
    for (u32 word = used + thread; word < words - escapes_at; word += THREADS) to[word] = 0;
}
