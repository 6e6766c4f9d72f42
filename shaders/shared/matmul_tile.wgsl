// What: y[i, first + o] = weight[o] . a[i] + bias[first + o], or added to y, in tiles of 64 rows and 64 outputs.
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: x = rows / 64, y = outputs / 64; 128 threads, each 8 rows by 4 outputs.
// Shared: 16 KiB: 32 columns of 64 rows of a and of 64 expanded weight rows, transposed.
// Numerics: weights are expanded to f32; sums in f32, in the order of the columns.

const WORKGROUP: u32 = 128u;
//:variant weight = part/weight_f16 | part/weight_q4 | part/weight_q8g32 | part/weight_q8g16 | part/weight_q8g32m

struct Params {
    rows: u32,
    // Outputs of this dispatch, and the place of the first in y and bias.
    outputs: u32,
    first: u32,
    // Columns / 32.
    steps: u32,
    // vec4s of a weight row, and of it before the scales.
    weight_pitch: u32,
    scale_offset: u32,
    // vec4s of a row of a, and elements of a row of y.
    a_pitch: u32,
    y_pitch: u32,
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

// Element [column * 16 + g] holds rows (or outputs) 4 g to 4 g + 3 of the tile.
var<workgroup> a_tile: array<vec4<f32>, 512>;
var<workgroup> weight_tile: array<vec4<f32>, 512>;

//:import part/product

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let rows = min(count[0], params.rows);
    let tile_row = 64u * group.x;
    let tile_output = 64u * group.y;
    if tile_row >= rows || tile_output >= params.outputs {
        return;
    }
    // What this thread brings in: one quad of columns of four rows of a, and of four weight rows. Beyond the edge it repeats the last.
    let part = thread % 16u;
    let quad = thread / 16u;
    //:repeat i = 0..4
    let a_row$(i) = min(tile_row + 4u * part + $(i)u, rows - 1u) * params.a_pitch;
    let weight_row$(i) = min(tile_output + 4u * part + $(i)u, params.outputs - 1u) * params.weight_pitch;
    var a_next$(i) = a[a_row$(i) + quad];
    var weight_next$(i) = weight_quad(weight_row$(i), quad);
    //:end
    // What it computes: rows 8 down to 8 down + 7, outputs 4 across to 4 across + 3.
    let across = thread % 16u;
    let down = thread / 16u;
    //:repeat r = 0..8
    var sum$(r) = vec4<f32>();
    //:end
    for (var step = 0u; step < params.steps; step++) {
        //:repeat c = 0..4
        a_tile[(4u * quad + $(c)u) * 16u + part] = vec4<f32>(a_next0[$(c)], a_next1[$(c)], a_next2[$(c)], a_next3[$(c)]);
        weight_tile[(4u * quad + $(c)u) * 16u + part] =
            vec4<f32>(weight_next0[$(c)], weight_next1[$(c)], weight_next2[$(c)], weight_next3[$(c)]);
        //:end
        workgroupBarrier();
        let ahead = 8u * min(step + 1u, params.steps - 1u) + quad;
        //:repeat i = 0..4
        a_next$(i) = a[a_row$(i) + ahead];
        weight_next$(i) = weight_quad(weight_row$(i), ahead);
        //:end
        for (var column = 0u; column < 32u; column += 4u) {
            //:repeat c = 0..4
            {
                let at = (column + $(c)u) * 16u;
                let w = weight_tile[at + across];
                let low = a_tile[at + 2u * down];
                let high = a_tile[at + 2u * down + 1u];
                //:repeat r = 0..4
                sum$(r) += low[$(r)] * w;
                //:end
                //:repeat r = 4..8
                sum$(r) += high[$(r) - 4] * w;
                //:end
            }
            //:end
        }
        workgroupBarrier();
    }
    let output = tile_output + 4u * across;
    //:repeat r = 0..8
    {
        let row = tile_row + 8u * down + $(r)u;
        if row < rows {
            store(row, output, sum$(r).x);
            store(row, output + 1u, sum$(r).y);
            store(row, output + 2u, sum$(r).z);
            store(row, output + 3u, sum$(r).w);
        }
    }
    //:end
}
