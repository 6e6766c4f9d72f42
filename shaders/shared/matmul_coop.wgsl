// What: y[i, first + o] = weight[o] . a[i] + bias[first + o], or added to y, in tiles of rows and outputs, by matrix units.
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: x = rows / TILE, y = outputs / TILE; four subgroups of 32 threads, each with a quarter of the tile in products of 16 by 16.
// Shared: 32 columns of TILE rows of a and of TILE weight rows as f16 in 20 KiB, and 5 KiB through which results pass.
// Numerics: factors are rounded to f16, numbers beyond its range to its largest; sums in f32.

enable f16;
enable wgpu_cooperative_matrix;

const WORKGROUP: u32 = 128u;
//:variant weight = part/half_f16 | part/half_q4 | part/half_q8g32 | part/half_q8g16 | part/half_q8g32m
//:variant tile = part/coop_tile_128 | part/coop_tile_64

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
@group(0) @binding(2) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// Rows of 32 columns, eight vec4s, and two more that keep threads that read a column from one bank.
const PITCH: u32 = 10u;
var<workgroup> a_tile: array<vec4<f16>, TILE * PITCH>;
var<workgroup> weight_tile: array<vec4<f16>, TILE * PITCH>;
// 16 by 16 results of each subgroup, in rows of 20.
const OUT_PITCH: u32 = 20u;
var<workgroup> out_tile: array<f32, 4u * 16u * OUT_PITCH>;

//:import part/product

// As f16; its largest number where that is exceeded.
fn half4(value: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(clamp(value, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) within: u32,
) {
    let rows = min(count[0], params.rows);
    let tile_row = TILE * group.x;
    let tile_output = TILE * group.y;
    // All of a workgroup leave together, which naga must see: an `||` would hide it.
    if tile_row >= rows {
        return;
    }
    // What this thread brings in: a quad of every 16th row of a, an octet of every 32nd weight row. Beyond the edge it repeats the last.
    let quad = thread % 8u;
    let octet = thread % 4u;
    //:repeat i = 0..A_QUADS
    let a_row$(i) = min(tile_row + thread / 8u + 16u * $(i)u, rows - 1u) * params.a_pitch + quad;
    var a_next$(i) = a[a_row$(i)];
    //:end
    //:repeat i = 0..WEIGHT_OCTETS
    let weight_row$(i) = min(tile_output + thread / 4u + 32u * $(i)u, params.outputs - 1u) * params.weight_pitch;
    var weight_next$(i) = fetch_octet(weight_row$(i), octet);
    //:end
    let a_place = (thread / 8u) * PITCH + quad;
    let weight_place = (thread / 4u) * PITCH + 2u * octet;
    // What its subgroup computes.
    let down = (subgroup % 2u) * (TILE / 2u);
    let across = (subgroup / 2u) * (TILE / 2u);
    //:repeat i = 0..TILES
    //:repeat j = 0..TILES
    var sum$(i)_$(j) = coop_mat16x16<f32, C>();
    //:end
    //:end
    for (var step = 0u; step < params.steps; step++) {
        //:repeat i = 0..A_QUADS
        a_tile[a_place + $(i)u * 16u * PITCH] = half4(a_next$(i));
        //:end
        //:repeat i = 0..WEIGHT_OCTETS
        {
            let made = make_octet(weight_next$(i), 4u * step + octet);
            weight_tile[weight_place + $(i)u * 32u * PITCH] = made.low;
            weight_tile[weight_place + $(i)u * 32u * PITCH + 1u] = made.high;
        }
        //:end
        workgroupBarrier();
        let ahead = min(step + 1u, params.steps - 1u);
        //:repeat i = 0..A_QUADS
        a_next$(i) = a[a_row$(i) + 8u * ahead];
        //:end
        //:repeat i = 0..WEIGHT_OCTETS
        weight_next$(i) = fetch_octet(weight_row$(i), 4u * ahead + octet);
        //:end
        //:repeat k = 0..2
        {
            //:repeat j = 0..TILES
            let right$(j) = coopLoad<coop_mat16x16<f16, B>>(&weight_tile[(across + 16u * $(j)u) * PITCH + 4u * $(k)u], PITCH);
            //:end
            //:repeat i = 0..TILES
            let left$(i) = coopLoadT<coop_mat16x16<f16, A>>(&a_tile[(down + 16u * $(i)u) * PITCH + 4u * $(k)u], PITCH);
            //:repeat j = 0..TILES
            sum$(i)_$(j) = coopMultiplyAdd(left$(i), right$(j), sum$(i)_$(j));
            //:end
            //:end
        }
        //:end
        workgroupBarrier();
    }
    let place = subgroup * 16u * OUT_PITCH;
    let out_pitch = OUT_PITCH;
    //:repeat i = 0..TILES
    //:repeat j = 0..TILES
    {
        // naga 30 takes only names here.
        let corner = &out_tile[place];
        let product = sum$(i)_$(j);
        coopStoreT(product, corner, out_pitch);
        workgroupBarrier();
        let row = tile_row + down + 16u * $(i)u + within / 2u;
        let output = tile_output + across + 16u * $(j)u + 8u * (within % 2u);
        if row < rows {
            for (var e = 0u; e < 8u; e++) {
                store(row, output + e, out_tile[place + (within / 2u) * OUT_PITCH + 8u * (within % 2u) + e]);
            }
        }
        workgroupBarrier();
    }
    //:end
    //:end
}
