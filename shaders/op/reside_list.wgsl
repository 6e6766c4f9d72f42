// What: misses = what has to be restored of all stores in order: store, position, slot; counts = how many of each tile.
// Contract: engine/contract/src/op/reside.rs
// Grid: x = stores; 256 threads, each of which takes every 256th token.
// Shared: none.
// Numerics: none.

const WORKGROUP: u32 = 256u;

struct Params {
    stores: u32,
    // Words of what was found for a store: how many tokens have no slot, and each with its slot.
    found_pitch: u32,
    // Rows that there is room for, tiles, words of a tile's count, and rows of a tile.
    rows: u32,
    tiles: u32,
    counts_pitch: u32,
    tile: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> count: array<u32>;
@group(0) @binding(2) var<storage, read> found: array<u32>;
@group(0) @binding(3) var<storage, read_write> misses: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> counts: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let stores = min(count[0], params.stores);
    if group.x >= max(stores, 1u) {
        return;
    }
    var before = 0u;
    for (var store = 0u; store < group.x; store++) {
        before += found[store * params.found_pitch];
    }
    let first = group.x * params.found_pitch;
    let here = select(0u, found[first], group.x < stores);
    for (var i = thread; i < here && before + i < params.rows; i += WORKGROUP) {
        let at = first + 2u + 2u * i;
        misses[before + i] = vec4<u32>(group.x, found[at], found[at + 1u], 0u);
    }
    if group.x + 1u != max(stores, 1u) {
        return;
    }
    let all = min(before + here, params.rows);
    for (var tile = thread; tile < params.tiles; tile += WORKGROUP) {
        let earlier = min(tile * params.tile, all);
        counts[tile * params.counts_pitch] = min(all - earlier, params.tile);
    }
}
