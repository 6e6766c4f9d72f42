// What: the references of all blocks enter `latents` as exact rows.
// Contract: engine/contract/src/op/refer.rs
// Grid: x = blocks * references * parts of 128 columns / 4; a warp a part.
// Shared: none.
// Numerics: scales are quotients rounded to f32 and then f16, codes rounded half to even, on every device alike.
//:threads 128
#include "part/exact_store.cuh"
#include "part/launch.cuh"

// capacity: blocks at most. words: words of a record. parts: parts of a row.
extern "C" __global__ void __launch_bounds__(THREADS) refer_store(
    const uint2* staged, const BlockDesc* blocks, const u32* count, const u32* entries, const float4* mean, u32* latents,
    u32 capacity, u32 cols, u32 words, u32 stride, u32 references, u32 exact_words, u32 exact_f16, u32 parts) {
    release_dependents();
    wait_for_inputs();
    u32 id = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    u32 row = id / parts;
    u32 number = row / references;
    if (number >= min(*count, capacity)) return;
    BlockDesc block = blocks[number];
    u32 reference = row % references;
    u32* record = Records<u32>{latents, entries, words}.record(block.blocks, block.index);
    const uint2* source = staged + u64(block.source + reference * stride) * (cols / 4);
    store_exact(source, mean, record + reference * exact_words, cols, exact_f16 != 0, id % parts);
}
