// What: out[o] = silu(gate[o] . n) * (up[o] . n) for one row, where n is the norm of the input row.
// Contract: engine/contract/src/op/gate_up_silu.rs
// Grid: y * x_groups + x = outputs / teams; a team of threads computes an output of each weight.
// Shared: 8 KiB for a segment of the input, 2 KiB for its sums where weights have minima, and the reduction's.
// Numerics: codes are summed in f32, by chunk, and then scaled; chunks by thread, then threads; the norm's root divides the sum.

const WORKGROUP: u32 = 256u;
//:let MATRICES = 2
//:let PRODUCTS = 1
//:let MOST = 2
//:variant codes = part/codes_f16 | part/codes_q4 | part/codes_q8g32 | part/codes_q8g16 | part/codes_q8g32m
//:variant crew = part/crew_subgroup | part/crew_workgroup
//:import part/input_first
//:import part/one_row
//:import part/math

struct Params {
    outputs: u32,
    // vec4s of codes in a weight row, of a whole weight row, and of it before the scales.
    chunks: u32,
    weight_pitch: u32,
    scale_offset: u32,
    // Quads of an input row, and segments of 512 quads.
    quads: u32,
    segments: u32,
    // Workgroups along x, and the teams whose outputs a workgroup computes.
    x_groups: u32,
    teams: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight0: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> weight1: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

// Gate and up.
const OUTPUTS: u32 = 2u;

fn team_row(output: u32, i: u32) -> u32 {
    return output;
}

//:repeat i = 0..MOST
fn fetch_0_$(i)(row: u32, chunk: u32) -> Chunk {
    return chunk$(i)(row, chunk);
}
//:end

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let first_team = (group.y * params.x_groups + group.x) * params.teams;
    for (var first = 0u; first < params.teams; first += team_count(lane)) {
        let team = first + team_index(lane);
        let output = first_team + team;
        // Whether the row counts is under way while the products are made, which do not wait for it.
        let counted = count[0];
        let values = product0(output, params.outputs, lane);
        if team_thread(lane) == 0u && team < params.teams && output < params.outputs && counted > 0u {
            out[output] = silu(values.xxxx).x * values.y;
        }
    }
}
