// What: out[i] = norm .* x[r] / sqrt(mean(x[r]^2) + epsilon), with r = i or r = select[i].
// Contract: engine/contract/src/op/{norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: x = rows, and y * x_groups + x where there are many; a workgroup a row.
// Shared: the reduction's.
// Numerics: squares are summed in f32, by thread and then over threads.

const WORKGROUP: u32 = 256u;
//:variant rows = part/rows_all | part/rows_select
//:variant reduce = part/reduce_subgroup | part/reduce_workgroup
//:variant out = part/out_f32 | part/out_f16

struct Params {
    rows: u32,
    input_rows: u32,
    // vec4s of a row.
    width: u32,
    // vec4s from larger parts of rows of f16 to smaller ones; 0 where there are none.
    apart: u32,
    // Workgroups along x.
    x_groups: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> norm: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> count: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let row = group.y * params.x_groups + group.x;
    if row >= min(count[0], params.rows) {
        return;
    }
    let base = source_row(row) * params.width;
    var squares = 0.0;
    for (var i = lane.thread; i < params.width; i += WORKGROUP) {
        let value = x[base + i];
        squares += dot(value, value);
    }
    let total = reduce_add4(vec4<f32>(squares, 0.0, 0.0, 0.0), lane).x;
    let factor = 1.0 / sqrt(total / f32(4u * params.width) + params.epsilon);
    for (var i = lane.thread; i < params.width; i += WORKGROUP) {
        put(row * params.width + i, norm[i] * (x[base + i] * factor));
    }
}
