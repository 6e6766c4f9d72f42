// What: the largest logit of each head of a block over the candidates of a pick, and the inverse sum of exponentials against it, from those of tiles.
// Contract: engine/contract/src/op/observe.rs
// Grid: x = blocks of four query heads, y = picks; 256 threads share the tiles.
// Shared: the reduction's.
// Numerics: f32, by thread and then over threads.

const WORKGROUP: u32 = 256u;
// Candidates of a tile, as observe_logits cuts them.
const TILE: u32 = 128u;
// Tiles that a thread loads at once.
const LOADS: u32 = 4u;
//:let LOADS = 4
//:variant reduce = part/reduce_subgroup | part/reduce_workgroup
//:import part/layout
//:import part/math

struct Params {
    picks: u32,
    // Query heads of a key head, and blocks of four among them.
    group: u32,
    blocks: u32,
    // The first block of this dispatch.
    first_block: u32,
    // Candidates that a row of scores has room for, and tiles of so many.
    capacity: u32,
    tiles: u32,
    // Where the tiles' records begin, in vec4s.
    records: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> count: array<u32>;
@group(0) @binding(2) var<storage, read> picks: array<PickDesc>;
// From the records on: [pick][block][tile][largest, sum]
@group(0) @binding(3) var<storage, read> logits: array<vec4<f32>>;
// [pick][block][largest, inverse sum]
@group(0) @binding(4) var<storage, read_write> stats: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
    let place = group.y * groups.x + group.x;
    let first = params.records + 2u * place * params.tiles;
    // No load waits for another: the first records are under way before it is known how many there are.
    let counted = count[0];
    let wanted = picks[group.y].candidates;
    //:repeat i = 0..LOADS
    let at$(i) = first + 2u * min(lane.thread + $(i)u * WORKGROUP, params.tiles - 1u);
    var largest$(i) = logits[at$(i)];
    var sum$(i) = logits[at$(i) + 1u];
    //:end
    if group.y >= min(counted, params.picks) {
        return;
    }
    let tiles = (min(wanted, params.capacity) + TILE - 1u) / TILE;
    var largest = vec4<f32>(MASKED);
    var sum = vec4<f32>();
    for (var tile = lane.thread; tile < tiles; tile += LOADS * WORKGROUP) {
        var most = largest;
        //:repeat i = 0..LOADS
        if tile + $(i)u * WORKGROUP < tiles {
            most = max(most, largest$(i));
        }
        //:end
        sum *= exp(largest - most);
        //:repeat i = 0..LOADS
        if tile + $(i)u * WORKGROUP < tiles {
            sum += sum$(i) * exp(largest$(i) - most);
        }
        //:end
        largest = most;
        //:repeat i = 0..LOADS
        let ahead$(i) = first + 2u * min(tile + (LOADS + $(i)u) * WORKGROUP, params.tiles - 1u);
        largest$(i) = logits[ahead$(i)];
        sum$(i) = logits[ahead$(i) + 1u];
        //:end
    }
    let most = reduce_max4(largest, lane);
    let total = reduce_add4(sum * exp(largest - most), lane);
    if lane.thread == 0u {
        // Components beyond the group's heads belong to no head, and get no share.
        let heads = params.group - 4u * ((params.first_block + group.x) % params.blocks);
        let is_head = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(heads);
        stats[2u * place] = most;
        stats[2u * place + 1u] = select(vec4<f32>(), 1.0 / max(total, vec4<f32>(1.0e-30)), is_head);
    }
}
