// What: the whole op for one row of a model without biases and head norms: q with its rotary embedding into `q_out`, k with its and v into the row's slot.
// Contract: engine/contract/src/op/qkv_rope_append.rs
// Grid: x = groups of q, then of k, then of v; a team of threads computes two pairs that the embedding turns, or as many elements of v.
// Shared: 8 KiB for a segment of the input, 2 KiB for its sums where weights have minima, and the reduction's.
// Numerics: codes are summed in f32, by chunk, and then scaled; chunks by thread, then threads; one rounding to f16, ties to even.

const WORKGROUP: u32 = 256u;
//:let MATRICES = 3
//:let PRODUCTS = 3
//:let MOST = 4
//:variant codes = part/codes_f16 | part/codes_q4 | part/codes_q8g32 | part/codes_q8g16 | part/codes_q8g32m
//:variant crew = part/crew_subgroup | part/crew_workgroup
//:import part/input_first
//:import part/one_row
//:import part/math
//:import part/rotation

struct Params {
    head_dim: u32,
    // Outputs of q, and of k and v each.
    q_outputs: u32,
    kv_outputs: u32,
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
    // Whether keys are stored as they enter.
    unroped: u32,
    rope_rows: u32,
    // Words of a row of the table and of the cache, and the cache's rows.
    rope_pitch: u32,
    kv_pitch: u32,
    slots: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight0: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> weight1: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> weight2: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> rope: array<f32>;
@group(0) @binding(7) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(8) var<storage, read> count: array<u32>;
@group(0) @binding(9) var<storage, read_write> q_out: array<vec2<f32>>;
@group(0) @binding(10) var<storage, read_write> kv: array<u32>;

const OUTPUTS: u32 = 4u;

// The first of a team's elements within its head.
fn even_element(output: u32) -> u32 {
    return 2u * (output % (params.head_dim / 4u));
}

// Elements `e` and `e + 1` of a head, then those that the embedding pairs them with.
fn team_row(output: u32, i: u32) -> u32 {
    let head = output / (params.head_dim / 4u);
    return head * params.head_dim + even_element(output) + (i & 1u) + (i >> 1u) * (params.head_dim / 2u);
}

//:repeat m = 0..3
//:repeat i = 0..MOST
fn fetch_$(m)_$(i)(row: u32, chunk: u32) -> Chunk {
    return chunk$(m)(row, chunk);
}
//:end

// A workgroup's outputs of one weight, from its team `first_team` on.
fn outputs$(m)(first_team: u32, outputs: u32, lane: Lane) {
    for (var first = 0u; first < params.teams; first += team_count(lane)) {
        let team = first + team_index(lane);
        let output = first_team + team;
        let even = even_element(output);
        // What follows the products is under way while they are made.
        let counted = count[0];
        let turn = turn_of(rows[0].position, even);
        let next_turn = turn_of(rows[0].position, even + 1u);
        let slot = rows[0].slot;
        var values = product$(m)(output, outputs, lane);
        if team_thread(lane) == 0u && team < params.teams && 4u * output < outputs && counted > 0u {
            if $(m)u == 0u || ($(m)u == 1u && params.unroped == 0u) {
                let pair = turned_by(turn, values.xz);
                let next_pair = turned_by(next_turn, values.yw);
                values = vec4<f32>(pair.x, next_pair.x, pair.y, next_pair.y);
            }
            // In pairs of elements: the place of the first, and the distance to the second.
            let place = team_row(output, 0u) / 2u;
            let half = params.head_dim / 4u;
            if $(m)u == 0u {
                q_out[place] = values.xy;
                q_out[place + half] = values.zw;
            } else if slot < params.slots {
                let to = slot * params.kv_pitch + ($(m)u - min($(m)u, 1u)) * (outputs / 2u) + place;
                kv[to] = half_pair(values.x, values.y);
                kv[to + half] = half_pair(values.z, values.w);
            }
        }
    }
}
//:end

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if group.x < params.q_groups {
        outputs0(group.x * params.teams, params.q_outputs, lane);
    } else if group.x < params.q_groups + params.kv_groups {
        outputs1((group.x - params.q_groups) * params.teams, params.kv_outputs, lane);
    } else {
        outputs2((group.x - params.q_groups - params.kv_groups) * params.teams, params.kv_outputs, lane);
    }
}
