// What: y[first + o] = weight[o] . n + bias[first + o], or added to y, for one row, where n is the input row or its norm.
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear}.rs
// Grid: y * x_groups + x = outputs / (OUTPUTS * teams); a team of threads computes OUTPUTS outputs.
// Shared: 8 KiB for a segment of the input, 2 KiB for its sums where weights have minima, and the reduction's.
// Numerics: codes are summed in f32, by chunk, and then scaled; chunks by thread, then threads; the norm's root divides the sum.

const WORKGROUP: u32 = 256u;
//:let MATRICES = 1
//:let PRODUCTS = 1
//:let MOST = 4
//:variant codes = part/codes_f16 | part/codes_q4 | part/codes_q8g32 | part/codes_q8g16 | part/codes_q8g32m
//:variant input = part/input_plain | part/input_selected
//:variant crew = part/crew_subgroup | part/crew_workgroup
//:import part/one_row

struct Params {
    // Outputs of this dispatch, and the place of the first in y and bias.
    outputs: u32,
    first: u32,
    // vec4s of codes in a weight row, of a whole weight row, and of it before the scales.
    chunks: u32,
    weight_pitch: u32,
    scale_offset: u32,
    // Rows of a, quads of a row, and segments of 512 quads.
    input_rows: u32,
    quads: u32,
    segments: u32,
    // Workgroups along x, and the teams whose outputs a workgroup computes.
    x_groups: u32,
    teams: u32,
    // Whether y is added to, and whether there is a bias.
    add: u32,
    has_bias: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight0: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// Outputs of a team: 1, 2 or 4.
override OUTPUTS: u32 = 1u;

fn team_row(output: u32, i: u32) -> u32 {
    return output + i;
}

//:repeat i = 0..MOST
fn fetch_0_$(i)(row: u32, chunk: u32) -> Chunk {
    return chunk0(row, chunk);
}
//:end

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let first_team = (group.y * params.x_groups + group.x) * params.teams;
    for (var first = 0u; first < params.teams; first += team_count(lane)) {
        let team = first + team_index(lane);
        let output = OUTPUTS * (first_team + team);
        // What the product is added to is under way while it is made, and so is whether the row counts, for which nothing waits.
        let i = team_thread(lane);
        let at = params.first + output + i;
        let stores = i < OUTPUTS && team < params.teams && output + i < params.outputs;
        let counted = count[0];
        var value = 0.0;
        if stores && params.has_bias != 0u {
            value = bias[at];
        }
        if stores && params.add != 0u {
            value += y[at];
        }
        let values = product0(output, params.outputs, lane);
        if stores && counted > 0u {
            y[at] = value + values[i];
        }
    }
}
