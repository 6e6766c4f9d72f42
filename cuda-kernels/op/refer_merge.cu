// What: the ordinals of the references nearest to each coded token of a block, of those that each part of the candidates has, into `latents`.
// Contract: engine/contract/src/op/refer.rs
// Grid: x = blocks; a token a thread.
// Shared: none.
// Numerics: f32 distances; parts come in the order of their ordinals, so that of equal ones the lower stay.
//:threads 128
#include "part/launch.cuh"
#include "part/nearest.cuh"

// found: [block][split][neighbour][token], the bits of a distance and an ordinal. capacity: blocks at most. words: words of a record.
extern "C" __global__ void __launch_bounds__(THREADS) refer_merge(
    const BlockDesc* blocks, const u32* count, const u32* entries, const uint2* found, u32* latents,
    u32 capacity, u32 words, u32 stride, u32 references, u32 neighbours, u32 ordinals_at, u32 ordinal_words, u32 splits) {
    release_dependents();
    wait_for_inputs();
    u32 lane = threadIdx.x;
    BlockShape shape = {stride, references};
    if (blockIdx.x >= min(*count, capacity) || shape.is_reference(lane)) return;
    BlockDesc block = blocks[blockIdx.x];
    u32 earlier = block.sinks + block.index * references;
    CandidateParts parts = CandidateParts::cut(earlier, stride, splits);
    u32 entered = ceil_div(parts.all, parts.share) * neighbours;
    const uint2* own = found + u64(blockIdx.x) * splits * neighbours * BLOCK + lane;
    Nearest nearest;
    nearest.clear();
    #pragma unroll 8
    for (u32 i = 0; i < entered; i++) {
        uint2 entry = own[u64(i) * BLOCK];
        nearest.offer(__uint_as_float(entry.x), entry.y);
    }
    // Where there are fewer, the nearest stands for the rest.
    u32 visible = earlier + lane / stride + 1;
    u32* record = Records<u32>{latents, entries, words}.record(block.blocks, block.index);
    u32* to = record + ordinals_at + shape.coded_index(lane) * ordinal_words;
    #pragma unroll
    for (u32 i = 0; i < MOST_NEIGHBOURS; i += 2) {
        if (i >= neighbours) break;
        u32 low = i < visible ? nearest.ordinals[i] : nearest.ordinals[0];
        u32 high = i + 1 < visible ? nearest.ordinals[i + 1] : nearest.ordinals[0];
        to[i / 2] = low | (i + 1 < neighbours ? high << 16 : 0);
    }
}
