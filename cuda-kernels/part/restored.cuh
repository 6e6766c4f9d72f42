// How restored rows are numbered (engine/contract/src/op/unpack.rs).
#pragma once
#include "part/math.cuh"

// How tokens are named: every one of a sequence, by lists, or row by row as misses.
enum Naming { EVERY, LISTED, MISSING };

// A row beyond what a sequence restores.
constexpr u32 ABSENT = 0xffffffffu;

// The token of a row: its store, its position or ABSENT, and the slot that it is restored to.
struct RestoredToken {
    u32 store;
    u32 position;
    u32 slot;
};

// What row `row` is, counted over all sequences of `pitch` rows each. `tokens_pitch`: words of a list.
template <Naming NAMING>
__device__ inline RestoredToken restored_token(const u32* tokens, const StoreDesc* stores, u32 row, u32 pitch, u32 tokens_pitch) {
    if (NAMING == MISSING) {
        uint4 miss = reinterpret_cast<const uint4*>(tokens)[row];
        return {miss.x, miss.y, miss.z};
    }
    u32 store = row / pitch, index = row % pitch;
    if (NAMING == EVERY) return {store, index < stores[store].length ? index : ABSENT, row};
    return {store, index < stores[store].chosen ? tokens[u64(store) * tokens_pitch + index] : ABSENT, row};
}
