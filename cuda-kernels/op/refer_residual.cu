// What: base, and residual = x - base, for each token of the blocks; zero for references.
// Contract: engine/contract/src/op/refer.rs
// Grid: x = tokens; a block a token.
// Shared: 512 bytes for where each warp's references lie.
// Numerics: f32, the references' sum in their order.
//:threads 128
#include "part/exact_load.cuh"
#include "part/launch.cuh"

// capacity: blocks at most. words: words of a record.
extern "C" __global__ void __launch_bounds__(THREADS) refer_residual(
    const u32* staged, const BlockDesc* blocks, const u32* count, const u32* entries, const float4* mean, const u32* latents,
    float4* residual, float4* base,
    u32 capacity, u32 cols, u32 words, u32 stride, u32 references, u32 neighbours, u32 exact_words, u32 exact_f16,
    u32 ordinals_at, u32 ordinal_words) {
    release_dependents();
    wait_for_inputs();
    u32 number = blockIdx.x / BLOCK;
    if (number >= min(*count, capacity)) return;
    BlockDesc block = blocks[number];
    u32 lane = blockIdx.x % BLOCK;
    u32 quads = cols / 4;
    u64 to = u64(blockIdx.x) * quads;
    References rows = {{latents, entries, words}, {stride, references}, exact_words, exact_f16 != 0};
    if (rows.shape.is_reference(lane)) {
        for (u32 quad = threadIdx.x; quad < quads; quad += THREADS) {
            residual[to + quad] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (base != nullptr) base[to + quad] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        return;
    }
    auto staged_row = [&](u32 row) { return ExactRow{staged + u64(row) * (cols / 2), true}; };
    __shared__ ExactRow room[THREADS / WARP][MOST_NEIGHBOURS];
    // Each warp finds the references for itself, one a thread.
    ExactRow own = {nullptr, true};
    u32 thread = threadIdx.x % WARP;
    if (thread < neighbours) {
        const u32* record = rows.records.record(block.blocks, block.index);
        u32 found = ordinal(record + ordinals_at, ordinal_words, rows.shape.coded_index(lane), thread);
        own = found < block.sinks ? staged_row(found) : rows.row(block.blocks, found - block.sinks);
    }
    ExactRows all = ExactRows::gather(own, neighbours, room[threadIdx.x / WARP]);
    ExactRow token = staged_row(block.source + lane);
    float share = 1.0f / float(max(neighbours, 1u));
    for (u32 quad = threadIdx.x; quad < quads; quad += THREADS) {
        float4 average = mean[quad];
        float4 x = token.decode(token.load(quad, cols), quad, average);
        float4 middle = neighbours != 0 ? all.mean(quad, cols, average, share) : average;
        residual[to + quad] = make_float4(x.x - middle.x, x.y - middle.y, x.z - middle.z, x.w - middle.w);
        if (base != nullptr) base[to + quad] = middle;
    }
}
