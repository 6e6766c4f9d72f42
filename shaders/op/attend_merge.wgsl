// What: out[row, head] = the splits' sums, weighed by exp(maximum), over the sum of their weights; zeros where no split saw a token.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = heads, y = rows; threads share the head's quads, and where there are more threads, the splits.
// Shared: 2 KiB for sums, 512 bytes for weights, and the reduction's.
// Numerics: f32; weights are relative to the largest maximum.

const WORKGROUP: u32 = 128u;
//:let LOADS = 4
//:variant reduce = part/reduce_subgroup | part/reduce_workgroup
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
@group(0) @binding(1) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> views: array<ViewDesc>;
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> parts: array<vec4<f32>, WORKGROUP>;
var<workgroup> part_weights: array<f32, WORKGROUP>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let row = group.y;
    let head = group.x;
    // Neither load waits for the other.
    let counted = count[0];
    let view = rows[row].view;
    let position = rows[row].position;
    if row >= min(counted, params.rows) {
        return;
    }
    let visible = view_visible(views[view], position);
    // Splits that see nothing add nothing, and need not be read.
    let used = clamp((visible + params.split_tokens - 1u) / params.split_tokens, 1u, params.splits);
    let first = (row * params.heads + head) * params.splits;
    var own_largest = MASKED;
    for (var split = lane.thread; split < used; split += WORKGROUP) {
        own_largest = max(own_largest, stats[first + split].x);
    }
    let largest = reduce_max4(vec4<f32>(own_largest), lane).x;
    let quad = lane.thread % params.quads;
    let turn = lane.thread / params.quads;
    let turns = WORKGROUP / params.quads;
    var weight = 0.0;
    var value = vec4<f32>();
    if turn < turns {
        for (var split = turn; split < used; split += 4u * turns) {
            //:repeat i = 0..LOADS
            let at$(i) = first + min(split + $(i)u * turns, used - 1u);
            let stat$(i) = stats[at$(i)];
            let sum$(i) = sums[at$(i) * params.quads + quad];
            //:end
            //:repeat i = 0..LOADS
            let factor$(i) = select(0.0, exp(stat$(i).x - largest), split + $(i)u * turns < used);
            weight += factor$(i) * stat$(i).y;
            value += factor$(i) * sum$(i);
            //:end
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
