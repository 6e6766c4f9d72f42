// What: out = silu(gate) .* up, element by element: the last step of the op.
// Contract: engine/contract/src/op/gate_up_silu.rs
// Grid: quads of all rows / 64, as x_groups * y; one quad of elements a thread.
// Shared: none.
// Numerics: f32; the exponential is kept finite.

//:import part/math

struct Params {
    rows: u32,
    // vec4s of a row.
    pitch: u32,
    // Workgroups along x.
    x_groups: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> up: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let quad = (group.y * params.x_groups + group.x) * 64u + thread;
    if quad >= min(count[0], params.rows) * params.pitch {
        return;
    }
    out[quad] = silu(gate[quad]) * up[quad];
}
