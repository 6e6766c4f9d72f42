// What: out = the row of a raw token, reference or escape, and z = 0; or else the mean of its references plus an offset, and z = its latents.
// Contract: engine/contract/src/op/unpack.rs
// Grid: x = rows, or fewer blocks that take rows in turn; a block a row, of which each warp finds for itself where it lies.
// Shared: 1 KiB for where each warp's rows lie.
// Numerics: f32, the references' sum in their order.
//:threads 256
//:variant NAMING = EVERY | LISTED | MISSING
//:variant RULE = PLAIN | GAIN | SYMMETRIC | MIN_MAX
#include "part/coded.cuh"
#include "part/launch.cuh"
#include "part/place.cuh"

// mean_rows: 2 where coded tokens have an offset. out_rows: rows at most. words: words of a record. group: latents that share a scale.
// scales: halves of a token's scales.
extern "C" __global__ void __launch_bounds__(THREADS, 5) unpack(
    const u32* tokens, const StoreDesc* stores, const u32* entries, const u32* count, const u32* raw, const float4* mean,
    const uint4* components, const u32* latents, float4* z, float4* out,
    u32 out_rows, u32 first, u32 pitch, u32 tokens_pitch, u32 mean_rows, u32 neighbours, u32 cols, u32 rank, u32 group, u32 words,
    u32 stride, u32 references, u32 exact_words, u32 exact_f16, u32 ordinals_at, u32 ordinal_words, u32 scales, u32 scales_at,
    u32 code_words, u32 codes_at, u32 escapes_at, u32 escapes) {
    release_dependents();
    wait_for_inputs();
    __shared__ ExactRow room[THREADS / WARP][MOST_NEIGHBOURS];
    u32 rows = min(*count, out_rows);
    u32 quads = cols / 4, latent_quads = ceil_div(rank, 4), thread = threadIdx.x % WARP;
    References known = {{latents, entries, words}, {stride, references}, exact_words, exact_f16 != 0};
    Places places = {known, stores, raw, cols, neighbours, ordinals_at, ordinal_words, escapes_at, escapes};
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        RestoredToken token = restored_token<NAMING>(tokens, stores, first + row, pitch, tokens_pitch);
        Place place = places.find<WARP>(token, thread);
        bool has_latents = place.record != nullptr;
        // A row as it is, or those whose mean is a base, a thread each.
        ExactRow own = has_latents && thread < neighbours ? places.reference(place, thread) : place.own;
        Coded coded = {components, place.record + codes_at + place.coded * code_words,
                       reinterpret_cast<const f16*>(place.record + scales_at) + place.coded * scales, rank, group};
        ExactRows all = ExactRows::gather(own, place.sources, room[threadIdx.x / WARP]);
        float share = 1.0f / float(max(place.sources, 1u));
        for (u32 quad = threadIdx.x; quad < quads; quad += THREADS) {
            float4 middle = mean[quad];
            float4 x = all.mean(quad, cols, middle, share);
            if (has_latents) {
                if (neighbours == 0) x = middle;
                float4 offset = mean_rows == 2 ? mean[quads + quad] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                float4 more = z == nullptr ? coded.quad(quad) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                x = make_float4(x.x + offset.x + more.x, x.y + offset.y + more.y, x.z + offset.z + more.z, x.w + offset.w + more.w);
            }
            out[u64(row) * quads + quad] = x;
        }
        if (z == nullptr) continue;
        for (u32 quad = threadIdx.x; quad < latent_quads; quad += THREADS) {
            z[u64(row) * latent_quads + quad] = has_latents ? coded.quad(quad) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
}
