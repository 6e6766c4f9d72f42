// What: out[row, head] = the splits' sums, weighed by exp(maximum), over the sum of their weights; zeros where no split saw a token.
// Contract: engine/contract/src/op/{attend,attend_stored}.rs
// Grid: x = heads, y = rows; threads share the head's quads, and where there are more threads, the splits.
// Shared: 4 KiB for sums, 1 KiB for weights, and the reduction's.
// Numerics: f32; weights are relative to the largest maximum.

const WORKGROUP: u32 = 256u;
// Splits whose sums a thread loads at once.
const LOADS: u32 = 8u;
//:let LOADS = 8
//:variant reduce = part/reduce_subgroup | part/reduce_workgroup
//:variant splits = part/splits_of_views | part/splits_of_stores
//:import part/layout
//:import part/math

struct Params {
    rows: u32,
    heads: u32,
    // vec4s of a head.
    quads: u32,
    split_tokens: u32,
    splits: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(2) var<storage, read> count: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> parts: array<vec4<f32>, WORKGROUP>;
var<workgroup> part_weights: array<f32, WORKGROUP>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let row = group.y;
    let head = group.x;
    let first = (row * params.heads + head) * params.splits;
    let quad = lane.thread % params.quads;
    let turn = lane.thread / params.quads;
    let turns = WORKGROUP / params.quads;
    // Neither load waits for the other: the first splits' are under way before it is known how many there are.
    let counted = count[0];
    let read_of = rows[row].view;
    let position = rows[row].position;
    let own_stat = split_stat(first + min(lane.thread, params.splits - 1u));
    //:repeat i = 0..LOADS
    let early_at$(i) = first + min(turn + $(i)u * turns, params.splits - 1u);
    let early_stat$(i) = split_stat(early_at$(i));
    let early_sum$(i) = split_sum(early_at$(i), quad);
    //:end
    if row >= min(counted, params.rows) {
        return;
    }
    let visible = row_visible(read_of, position);
    // Splits that see nothing add nothing, and need not be read.
    let used = clamp((visible + params.split_tokens - 1u) / params.split_tokens, 1u, params.splits);
    var own_largest = select(MASKED, own_stat.x, lane.thread < used);
    for (var split = lane.thread + WORKGROUP; split < used; split += WORKGROUP) {
        own_largest = max(own_largest, split_stat(first + split).x);
    }
    let largest = reduce_max4(vec4<f32>(own_largest), lane).x;
    var weight = 0.0;
    var value = vec4<f32>();
    if turn < turns {
        //:repeat i = 0..LOADS
        if turn + $(i)u * turns < used {
            let factor = exp(early_stat$(i).x - largest);
            weight += factor * early_stat$(i).y;
            value += factor * early_sum$(i);
        }
        //:end
        for (var split = turn + LOADS * turns; split < used; split += turns) {
            let stat = split_stat(first + split);
            let factor = exp(stat.x - largest);
            weight += factor * stat.y;
            value += factor * split_sum(first + split, quad);
        }
    }
    parts[lane.thread] = value;
    part_weights[lane.thread] = weight;
    workgroupBarrier();
    if turn == 0u {
        for (var i = 1u; i < turns; i++) {
            value += parts[i * params.quads + quad];
            weight += part_weights[i * params.quads + quad];
        }
        out[(row * params.heads + head) * params.quads + quad] = value / max(weight, 1.0e-30);
    }
}
