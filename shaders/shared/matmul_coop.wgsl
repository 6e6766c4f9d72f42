// What: y[i, first + o] = weight[o] . a[i] + bias[first + o], or added to y, in tiles of rows and outputs, by matrix units.
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: x = rows / TILE, y = outputs / TILE; subgroups of 32 threads, each with a part of the tile in products of 16 by 16.
// Shared: STEP columns of TILE rows of a and of TILE weight rows as f16 in up to 36 KiB, and up to 10 KiB through which results pass.
// Numerics: a comes as f16, and weights are rounded to f16; sums in f32.

enable f16;
enable wgpu_cooperative_matrix;

//:variant weight = part/half_f16 | part/half_q4 | part/half_q8g32 | part/half_q8g16 | part/half_q8g32m
//:variant tile = part/coop_tile_128 | part/coop_tile_64

//:import part/half_product

// vec4s of STEP columns, and two more that spread a column over the banks of workgroup memory.
const PITCH: u32 = STEP / 4u + 2u;
// Octets of STEP columns, and the rows that all threads bring in at a time.
const ROW_OCTETS: u32 = STEP / 8u;
const PASS: u32 = WORKGROUP / ROW_OCTETS;
var<workgroup> a_tile: array<vec4<f16>, TILE * PITCH>;
var<workgroup> weight_tile: array<vec4<f16>, TILE * PITCH>;
// 16 by 16 results of each subgroup, in rows of 20.
const OUT_PITCH: u32 = 20u;
var<workgroup> out_tile: array<f32, WORKGROUP / 32u * 16u * OUT_PITCH>;

// Where a result goes, or what it is added to; no place has the number 2^32 - 1.
fn place_of(row: u32, output: u32, rows: u32) -> u32 {
    let inside = row < rows && output < params.outputs;
    return select(0xffffffffu, row * params.y_pitch + params.first + output, inside);
}

@compute @workgroup_size(WORKGROUP)
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
    // What this thread brings in: an octet of every PASS-th row of a, and of every PASS-th weight row. Beyond the edge it repeats the last.
    let octet = thread % ROW_OCTETS;
    //:repeat i = 0..PASSES
    let a_row$(i) = min(tile_row + thread / ROW_OCTETS + PASS * $(i)u, rows - 1u) * params.a_pitch + 2u * octet;
    var a_low$(i) = a[a_row$(i)];
    var a_high$(i) = a[a_row$(i) + 1u];
    let weight_row$(i) = min(tile_output + thread / ROW_OCTETS + PASS * $(i)u, params.outputs - 1u) * params.weight_pitch;
    var weight_next$(i) = fetch_octet(weight_row$(i), octet);
    //:end
    let place = (thread / ROW_OCTETS) * PITCH + 2u * octet;
    // What its subgroup computes.
    let down = (subgroup % 2u) * (TILE / 2u);
    let across = (subgroup / 2u) * (16u * ACROSS);
    //:repeat i = 0..DOWN
    //:repeat j = 0..ACROSS
    var sum$(i)_$(j) = coop_mat16x16<f32, C>();
    //:end
    //:end
    // Whole tiles whose rows begin at multiples of 16 bytes pass between registers and y, others through workgroup memory. Loops, since naga takes no
    // `if` around matrices.
    let aligned = params.first % 4u == 0u && params.y_pitch % 4u == 0u;
    let whole = aligned && tile_row + TILE <= rows && tile_output + TILE <= params.outputs && params.has_bias == 0u;
    let y_place = (tile_row + down) * params.y_pitch + params.first + tile_output + across;
    var resume = whole && params.add != 0u;
    loop {
        if !resume {
            break;
        }
        resume = false;
        //:repeat i = 0..DOWN
        //:repeat j = 0..ACROSS
        sum$(i)_$(j) = coopLoadT<coop_mat16x16<f32, C>>(&y[y_place + 16u * $(i)u * params.y_pitch + 16u * $(j)u], params.y_pitch);
        //:end
        //:end
    }
    // Sums of other tiles begin with what is there as well, so that a row comes out the same in any tile.
    let out_place = subgroup * 16u * OUT_PITCH;
    let out_pitch = OUT_PITCH;
    let own_row = tile_row + down + within / 2u;
    let own_output = tile_output + across + 8u * (within % 2u);
    let own = out_place + (within / 2u) * OUT_PITCH + 8u * (within % 2u);
    var refill = !whole && params.add != 0u;
    loop {
        if !refill {
            break;
        }
        refill = false;
        //:repeat i = 0..DOWN
        //:repeat j = 0..ACROSS
        {
            for (var e = 0u; e < 8u; e++) {
                let at = place_of(own_row + 16u * $(i)u, own_output + 16u * $(j)u + e, rows);
                var there = 0.0;
                if at != 0xffffffffu {
                    there = y[at];
                }
                out_tile[own + e] = there;
            }
            subgroupBarrier();
            sum$(i)_$(j) = coopLoadT<coop_mat16x16<f32, C>>(&out_tile[out_place], out_pitch);
            subgroupBarrier();
        }
        //:end
        //:end
    }
    for (var step = 0u; step < params.steps; step++) {
        //:repeat i = 0..PASSES
        {
            a_tile[place + $(i)u * PASS * PITCH] = a_low$(i);
            a_tile[place + $(i)u * PASS * PITCH + 1u] = a_high$(i);
            let made = make_octet(weight_next$(i), ROW_OCTETS * step + octet);
            weight_tile[place + $(i)u * PASS * PITCH] = made.low;
            weight_tile[place + $(i)u * PASS * PITCH + 1u] = made.high;
        }
        //:end
        workgroupBarrier();
        let ahead = min(step + 1u, params.steps - 1u);
        //:repeat i = 0..PASSES
        a_low$(i) = a[a_row$(i) + 2u * ROW_OCTETS * ahead];
        a_high$(i) = a[a_row$(i) + 2u * ROW_OCTETS * ahead + 1u];
        weight_next$(i) = fetch_octet(weight_row$(i), ROW_OCTETS * ahead + octet);
        //:end
        //:repeat k = 0..DEPTH
        {
            //:repeat j = 0..ACROSS
            let right$(j) = coopLoad<coop_mat16x16<f16, B>>(&weight_tile[(across + 16u * $(j)u) * PITCH + 4u * $(k)u], PITCH);
            //:end
            //:repeat i = 0..DOWN
            let left$(i) = coopLoadT<coop_mat16x16<f16, A>>(&a_tile[(down + 16u * $(i)u) * PITCH + 4u * $(k)u], PITCH);
            //:repeat j = 0..ACROSS
            sum$(i)_$(j) = coopMultiplyAdd(left$(i), right$(j), sum$(i)_$(j));
            //:end
            //:end
        }
        //:end
        workgroupBarrier();
    }
    let y_pitch = params.y_pitch;
    var direct = whole;
    loop {
        if !direct {
            break;
        }
        direct = false;
        //:repeat i = 0..DOWN
        //:repeat j = 0..ACROSS
        {
            // naga 30 takes only names here.
            let corner = &y[y_place + 16u * $(i)u * y_pitch + 16u * $(j)u];
            let product = sum$(i)_$(j);
            coopStoreT(product, corner, y_pitch);
        }
        //:end
        //:end
    }
    var staged = !whole;
    loop {
        if !staged {
            break;
        }
        staged = false;
        //:repeat i = 0..DOWN
        //:repeat j = 0..ACROSS
        {
            let corner = &out_tile[out_place];
            let product = sum$(i)_$(j);
            coopStoreT(product, corner, out_pitch);
            subgroupBarrier();
            for (var e = 0u; e < 8u; e++) {
                let output = own_output + 16u * $(j)u + e;
                let at = place_of(own_row + 16u * $(i)u, output, rows);
                if at != 0xffffffffu {
                    var result = out_tile[own + e];
                    if params.has_bias != 0u {
                        result += bias[params.first + output];
                    }
                    y[at] = result;
                }
            }
            subgroupBarrier();
        }
        //:end
        //:end
    }
}
