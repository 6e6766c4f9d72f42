// Where the rows of stored tokens lie: as they are, or as codes and the rows whose mean is their base.
#pragma once
#include "part/exact_load.cuh"
#include "part/restored.cuh"

// Where a token lies.
struct Place {
    // The row of a token that is stored as it is.
    ExactRow own;
    // How many rows its own row or its base is the mean of; none where there is no token.
    u32 sources;
    // The block of a coded token, and its place among the coded ones there; null for every other token.
    const u32* record;
    u32 coded;
    // Its sequence's sinks, their first page, and the first block.
    u32 sinks;
    u32 pages;
    u32 blocks;
    // Whether it lies in raw pages.
    bool is_raw;
};

// The rows of a layer. `escapes` of a block lie at `escapes_at` of its record, `ordinal_words` words of ordinals of each coded token at `ordinals_at`.
struct Places {
    References known;
    const StoreDesc* stores;
    const u32* raw;
    u32 cols, neighbours, ordinals_at, ordinal_words, escapes_at, escapes;

    // Token `i` of the raw pages from entry `pages` on.
    __device__ ExactRow raw_row(u32 pages, u32 i) const {
        u64 slot = u64(entry_index(known.records.entries[pages + i / PAGE])) * PAGE + i % PAGE;
        return {raw + slot * (cols / 2), true};
    }

    // The place of a token, which `TEAM` neighbouring threads seek together, of which this is number `own`. All threads of a warp call it.
    template <u32 TEAM>
    __device__ Place find(RestoredToken token, u32 own) const {
        Place place = {{nullptr, true}, 0, nullptr, 0, 0, 0, 0, false};
        const u32* record = nullptr;
        u32 lane = 0;
        if (token.position != ABSENT) {
            StoreDesc store = stores[token.store];
            u32 after = token.position - store.sinks;
            place.sources = 1;
            place.sinks = store.sinks, place.pages = store.pages, place.blocks = store.blocks;
            if (token.position < store.sinks) {
                place.own = raw_row(store.pages, token.position);
                place.is_raw = true;
            } else if (after >= store.compressed) {
                place.own = raw_row(store.pages + ceil_div(store.sinks, PAGE), after - store.compressed);
                place.is_raw = true;
            } else {
                record = known.records.record(store.blocks, after / BLOCK);
                lane = after % BLOCK;
            }
        }
        u32 escape = ABSENT;
        for (u32 i = own; record != nullptr && i < escapes; i += TEAM) {
            if (record[escapes_at + i] == lane) escape = min(escape, i);
        }
        #pragma unroll
        for (u32 step = TEAM / 2; step > 0; step /= 2) escape = min(escape, __shfl_xor_sync(ALL, escape, step));
        if (record == nullptr) return place;
        if (known.shape.is_reference(lane)) {
            place.own = {record + lane / known.shape.stride * known.exact_words, known.exact_f16};
        } else if (escape != ABSENT) {
            place.own = {record + escapes_at + escapes + escape * known.exact_words, known.exact_f16};
        } else {
            place.sources = neighbours;
            place.record = record;
            place.coded = known.shape.coded_index(lane);
        }
        return place;
    }

    // Reference `index` of a coded token.
    __device__ ExactRow reference(const Place& place, u32 index) const {
        u32 found = ordinal(place.record + ordinals_at, ordinal_words, place.coded, index);
        return found < place.sinks ? raw_row(place.pages, found) : known.row(place.blocks, found - place.sinks);
    }
};
