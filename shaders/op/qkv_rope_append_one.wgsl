// What: y = [w_q . n + b_q | w_k . n + b_k | w_v . n + b_v] for one row, where n is the norm of the input row: the first step of the op.
// Contract: engine/contract/src/op/qkv_rope_append.rs
// Grid: x = groups of q, then of k, then of v, of OUTPUTS * teams outputs; a team of threads computes OUTPUTS outputs.
// Shared: 8 KiB for a segment of the input, 2 KiB for its sums where weights have minima, and the reduction's.
// Numerics: codes are summed in f32, by chunk, and then scaled; chunks by thread, then threads; the norm's root divides the sum.

const WORKGROUP: u32 = 256u;
//:let MATRICES = 3
//:let PRODUCTS = 3
//:let MOST = 4
//:variant codes = part/codes_f16 | part/codes_q4 | part/codes_q8g32 | part/codes_q8g16 | part/codes_q8g32m
//:variant crew = part/crew_subgroup | part/crew_workgroup
//:import part/input_first
//:import part/one_row

struct Params {
    // Outputs of q, and of k and v each; the places of the first of k and of v in y.
    q_outputs: u32,
    kv_outputs: u32,
    k_first: u32,
    v_first: u32,
    // Workgroups of q, and of k and v each.
    q_groups: u32,
    kv_groups: u32,
    // vec4s of codes in a weight row, of a whole weight row, and of it before the scales.
    chunks: u32,
    weight_pitch: u32,
    scale_offset: u32,
    // Quads of an input row, and segments of 512 quads.
    quads: u32,
    segments: u32,
    // Teams whose outputs a workgroup computes.
    teams: u32,
    // Which of q, k and v have biases, from the lowest bit on.
    biases: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight0: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> weight1: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> weight2: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> bias0: array<f32>;
@group(0) @binding(8) var<storage, read> bias1: array<f32>;
@group(0) @binding(9) var<storage, read> bias2: array<f32>;

// Outputs of a team: 1, 2 or 4.
override OUTPUTS: u32 = 1u;

fn team_row(output: u32, i: u32) -> u32 {
    return output + i;
}

//:repeat m = 0..3
//:repeat i = 0..MOST
fn fetch_$(m)_$(i)(row: u32, chunk: u32) -> Chunk {
    return chunk$(m)(row, chunk);
}
//:end

// A workgroup's outputs of one weight, from its team `first_team` on.
fn outputs$(m)(first_team: u32, outputs: u32, place: u32, lane: Lane) {
    for (var first = 0u; first < params.teams; first += team_count(lane)) {
        let team = first + team_index(lane);
        let output = OUTPUTS * (first_team + team);
        let values = product$(m)(output, outputs, lane);
        let i = team_thread(lane);
        if i < OUTPUTS && team < params.teams && output + i < outputs {
            var value = values[i];
            if (params.biases & (1u << $(m)u)) != 0u {
                value += bias$(m)[output + i];
            }
            y[place + output + i] = value;
        }
    }
}
//:end

// What rows that do not count leave in y is not read.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if group.x < params.q_groups {
        outputs0(group.x * params.teams, params.q_outputs, 0u, lane);
    } else if group.x < params.q_groups + params.kv_groups {
        outputs1((group.x - params.q_groups) * params.teams, params.kv_outputs, params.k_first, lane);
    } else {
        outputs2((group.x - params.q_groups - params.kv_groups) * params.teams, params.kv_outputs, params.v_first, lane);
    }
}
