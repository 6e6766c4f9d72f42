// What: y[i, first + o] = weight[o] . a[i] + bias[first + o], or added to y, for 8 rows i at a time, which read the weights once.
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: y * x_groups + x = outputs / (4 * teams), z = rows / 8; a team of threads computes 4 outputs of 8 rows and shares the columns.
// Shared: none where teams are subgroups; otherwise the reduction's.
// Numerics: weights are expanded to f32; sums in f32, by thread and then over threads.

const WORKGROUP: u32 = 64u;
//:variant weight = part/weight_f16 | part/weight_q4 | part/weight_q8g32 | part/weight_q8g16 | part/weight_q8g32m
//:variant team = part/team_subgroup | part/team_workgroup

struct Params {
    rows: u32,
    // Outputs of this dispatch, and the place of the first in y and bias.
    outputs: u32,
    first: u32,
    // vec4s of codes in a weight row, of a whole weight row, and of it before the scales.
    chunks: u32,
    weight_pitch: u32,
    scale_offset: u32,
    // vec4s of a row of a, and elements of a row of y.
    a_pitch: u32,
    y_pitch: u32,
    // Workgroups along x, and the teams whose outputs a workgroup computes.
    x_groups: u32,
    teams: u32,
    // Whether y is added to, and whether there is a bias.
    add: u32,
    has_bias: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// Rows that a workgroup takes: 1, 2, 4 or 8.
override ROWS: u32 = 8u;

//:import part/product

// Four outputs of the rows from `first_row` on.
fn product(first_row: u32, rows: u32, output: u32, lane: Lane) {
    let last = params.outputs - 1u;
    //:repeat i = 0..4
    let weight$(i) = min(output + $(i)u, last) * params.weight_pitch;
    //:end
    // Component i of a sum belongs to output i. Rows that do not count repeat the last that does, and are not stored.
    //:repeat r = 0..8
    let row$(r) = min(first_row + $(r)u, rows - 1u) * params.a_pitch;
    var sum$(r) = vec4<f32>();
    //:end
    for (var chunk = team_thread(lane); chunk < params.chunks; chunk += team_threads(lane)) {
        //:repeat i = 0..4
        let chunk$(i) = weight_chunk(weight$(i), chunk);
        //:end
        //:repeat o = 0..OCTETS
        {
            //:repeat i = 0..4
            let w$(i) = chunk_octet(chunk$(i), $(o)u);
            //:end
            let at = 2u * (chunk * OCTETS + $(o)u);
            //:repeat r = 0..8
            if ROWS > $(r)u {
                let low = a[row$(r) + at];
                let high = a[row$(r) + at + 1u];
                sum$(r) += vec4<f32>(dot(w0.low, low), dot(w1.low, low), dot(w2.low, low), dot(w3.low, low));
                sum$(r) += vec4<f32>(dot(w0.high, high), dot(w1.high, high), dot(w2.high, high), dot(w3.high, high));
            }
            //:end
        }
        //:end
    }
    //:repeat r = 0..8
    if ROWS > $(r)u {
        let total = team_add4(sum$(r), lane);
        let row = first_row + $(r)u;
        if team_thread(lane) == $(r)u % team_threads(lane) && row < rows {
            store(row, output, total.x);
            store(row, output + 1u, total.y);
            store(row, output + 2u, total.z);
            store(row, output + 3u, total.w);
        }
    }
    //:end
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let rows = min(count[0], params.rows);
    let first_row = group.z * ROWS;
    if first_row >= rows {
        return;
    }
    let first_team = (group.y * params.x_groups + group.x) * params.teams;
    for (var team = team_index(lane); team < params.teams; team += team_count(lane)) {
        let output = 4u * (first_team + team);
        if output < params.outputs {
            product(first_row, rows, output, lane);
        }
    }
}
