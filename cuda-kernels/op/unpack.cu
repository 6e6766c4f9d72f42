// What: out = the row of a raw token, reference or escape, and z = 0; or else the mean of its references plus an offset, and z = its latents.
// Contract: engine/contract/src/op/unpack.rs
// Grid: x = rows, or fewer blocks that take rows in turn; a block a row, of which each warp finds for itself where it lies.
// Shared: 1 KiB for where each warp's rows lie.
// Numerics: f32, the references' sum in their order.
//:threads 256
//:variant NAMING = EVERY | LISTED | MISSING
//:variant RULE = PLAIN | GAIN | SYMMETRIC | MIN_MAX
#include "part/code.cuh"
#include "part/exact_load.cuh"
#include "part/launch.cuh"
#include "part/restored.cuh"

// What a token's latents are read from.
struct Coded {
    const uint4* components;
    const u32* codes;
    const f16* scales;
    // Latents, and those that share a scale.
    u32 rank;
    u32 group;

    __device__ float latent(u32 i) const {
        if (i >= rank) return 0.0f;
        ComponentDesc component = component_at(components, i);
        if (component.bits == 0) return 0.0f;
        u32 word = component.offset / 32, bit = component.offset % 32;
        u32 code = codes[word] >> bit;
        if (bit + component.bits > 32) code |= codes[word + 1] << (32 - bit);
        code &= (1u << component.bits) - 1;
        if (RULE == PLAIN) return f32_of(f16(code));
        if (RULE == GAIN) return Scale{f32_of(scales[0]), 0.0f}.restore(component, code);
        u32 number = i / group;
        if (RULE == SYMMETRIC) return Scale{f32_of(scales[number]), 0.0f}.restore(component, code);
        return Scale{f32_of(scales[2 * number]), f32_of(scales[2 * number + 1])}.restore(component, code);
    }

    // Latents 4 * quad to 4 * quad + 3; zeros beyond the last.
    __device__ float4 quad(u32 quad) const {
        return make_float4(latent(4 * quad), latent(4 * quad + 1), latent(4 * quad + 2), latent(4 * quad + 3));
    }
};

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
    // Token `i` of the raw pages from entry `pages` on.
    auto raw_row = [&](u32 pages, u32 i) {
        u64 slot = u64(entry_index(entries[pages + i / PAGE])) * PAGE + i % PAGE;
        return ExactRow{raw + slot * (cols / 2), true};
    };
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        RestoredToken token = restored_token<NAMING>(tokens, stores, first + row, pitch, tokens_pitch);
        // A row as it is, or those whose mean is a base, a thread each; and whether there are latents besides.
        ExactRow own = {nullptr, true};
        u32 sources = 0;
        bool has_latents = false;
        Coded coded = {components, nullptr, nullptr, rank, group};
        if (token.position != ABSENT) {
            StoreDesc store = stores[token.store];
            u32 after = token.position - store.sinks;
            if (token.position < store.sinks) {
                own = raw_row(store.pages, token.position);
                sources = 1;
            } else if (after >= store.compressed) {
                own = raw_row(store.pages + ceil_div(store.sinks, PAGE), after - store.compressed);
                sources = 1;
            } else {
                const u32* record = known.records.record(store.blocks, after / BLOCK);
                u32 lane = after % BLOCK;
                u32 escape = ABSENT;
                for (u32 i = thread; i < escapes; i += WARP) {
                    if (record[escapes_at + i] == lane) escape = min(escape, i);
                }
                escape = __reduce_min_sync(ALL, escape);
                if (known.shape.is_reference(lane)) {
                    own = {record + lane / stride * exact_words, known.exact_f16};
                    sources = 1;
                } else if (escape != ABSENT) {
                    own = {record + escapes_at + escapes + escape * exact_words, known.exact_f16};
                    sources = 1;
                } else {
                    u32 place = known.shape.coded_index(lane);
                    has_latents = true;
                    coded.codes = record + codes_at + place * code_words;
                    coded.scales = reinterpret_cast<const f16*>(record + scales_at) + place * scales;
                    sources = neighbours;
                    if (thread < neighbours) {
                        u32 found = ordinal(record + ordinals_at, ordinal_words, place, thread);
                        own = found < store.sinks ? raw_row(store.pages, found) : known.row(store.blocks, found - store.sinks);
                    }
                }
            }
        }
        ExactRows all = ExactRows::gather(own, sources, room[threadIdx.x / WARP]);
        float share = 1.0f / float(max(sources, 1u));
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
