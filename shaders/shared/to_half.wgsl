// What: out[i] = a[i], rounded to f16, for matrix units; or in two parts.
// Contract: engine/contract/src/op/{linear,linear_add}.rs
// Grid: quads of all rows / 256, as y * x_groups + x; one quad a thread.
// Shared: none.
// Numerics: rounded to nearest, ties to even; numbers beyond the range of f16 become its largest.

struct Params {
    rows: u32,
    // vec4s of a row.
    pitch: u32,
    // vec4s from larger parts to smaller ones; 0 where there are none.
    apart: u32,
    // Workgroups along x.
    x_groups: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> count: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec2<u32>>;
//:import part/put_half

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let quad = (group.y * params.x_groups + group.x) * 256u + thread;
    if quad < min(count[0], params.rows) * params.pitch {
        put(quad, a[quad]);
    }
}
