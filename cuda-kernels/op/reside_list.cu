// What: misses = what has to be restored of all stores in order: store, position, slot; counts = how many of each tile.
// Contract: engine/contract/src/op/reside.rs
// Grid: x = stores; a thread takes every 256th token.
// Shared: sums.
// Numerics: none.
//:threads 256
#include "part/launch.cuh"
#include "part/reduce.cuh"

// found_pitch: words of what was found for a store: how many tokens have no slot, an unused one, and each token with its slot. rows: rows of misses.
// counts_pitch: words of a tile's count. tile: rows of a tile.
extern "C" __global__ void __launch_bounds__(THREADS) reside_list(
    const u32* count, const u32* found, uint4* misses, u32* counts,
    u32 store_rows, u32 found_pitch, u32 rows, u32 tiles, u32 counts_pitch, u32 tile) {
    __shared__ u32 sums[THREADS / WARP];
    wait_for_inputs();
    release_dependents();
    u32 thread = threadIdx.x, index = blockIdx.x;
    u32 stores = min(*count, store_rows);
    // Without stores, the first block still says that no tile has rows.
    if (index >= max(stores, 1u)) return;
    u32 earlier = 0;
    for (u32 store = thread; store < index; store += THREADS) earlier += found[u64(store) * found_pitch];
    u32 before = block_sum<THREADS>(earlier, sums);
    const u32* own = found + u64(index) * found_pitch;
    u32 here = index < stores ? own[0] : 0;
    for (u32 i = thread; i < here && before + i < rows; i += THREADS) {
        misses[before + i] = make_uint4(index, own[2 + 2 * i], own[3 + 2 * i], 0);
    }
    if (index + 1 != max(stores, 1u)) return;
    u32 all = min(before + here, rows);
    for (u32 at = thread; at < tiles; at += THREADS) {
        u32 first = u32(min(u64(at) * tile, u64(all)));
        counts[u64(at) * counts_pitch] = min(all - first, tile);
    }
}
