// What: the latents of tokens as f16, for tensor cores; zeros of tokens that are stored as they are.
// Contract: engine/contract/src/op/restore.rs
// Grid: x = rows, or fewer blocks that take rows in turn; a block a row, of which each warp finds for itself where it lies.
// Shared: none.
// Numerics: f32, then rounded to f16, ties to even.
//:threads 128
//:variant NAMING = EVERY | LISTED | MISSING
//:variant RULE = PLAIN | GAIN | SYMMETRIC | MIN_MAX
#include "part/coded.cuh"
#include "part/launch.cuh"
#include "part/place.cuh"

// capacity: rows at most. rank: a multiple of 8. words: words of a record. group: latents that share a scale. scales: halves of a token's scales.
extern "C" __global__ void __launch_bounds__(THREADS) restore_latents(
    const u32* tokens, const StoreDesc* stores, const u32* entries, const u32* count, const uint4* components, const u32* latents, uint4* z,
    u32 capacity, u32 first, u32 pitch, u32 tokens_pitch, u32 rank, u32 group, u32 words, u32 stride, u32 references, u32 exact_words,
    u32 scales, u32 scales_at, u32 code_words, u32 codes_at, u32 escapes_at, u32 escapes) {
    wait_for_inputs();
    // Not before: `restore_rows` relies on all that came before this kernel without waiting for it.
    release_dependents();
    u32 rows = min(*count, capacity), octets = rank / 8;
    References known = {{latents, entries, words}, {stride, references}, exact_words, true};
    Places places = {known, stores, nullptr, 0, 0, 0, 0, escapes_at, escapes};
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        RestoredToken token = restored_token<NAMING>(tokens, stores, first + row, pitch, tokens_pitch);
        Place place = places.find<WARP>(token, threadIdx.x % WARP);
        Coded coded = {components, place.record + codes_at + place.coded * code_words,
                       reinterpret_cast<const f16*>(place.record + scales_at) + place.coded * scales, rank, group};
        for (u32 octet = threadIdx.x; octet < octets; octet += THREADS) {
            uint4 halves = make_uint4(0, 0, 0, 0);
            if (place.record != nullptr) {
                float4 low = coded.quad(2 * octet), high = coded.quad(2 * octet + 1);
                halves = make_uint4(f16_pair(low.x, low.y), f16_pair(low.z, low.w), f16_pair(high.x, high.y), f16_pair(high.z, high.w));
            }
            z[u64(row) * octets + octet] = halves;
        }
    }
}
