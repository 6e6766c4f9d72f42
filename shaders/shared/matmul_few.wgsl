// What: y[i, first + o] = weight[o] . a[i] + bias[first + o], or added to y, for few rows, by matrix units, which read weights once.
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: x = rows / ROWS, y = outputs / OUTPUTS; each of eight subgroups of 32 threads takes every eighth 64 columns of the whole tile.
// Shared: 64 columns of OUTPUTS weight rows as f16 for each subgroup in up to 36 KiB, and 10 KiB where the subgroups' sums meet.
// Numerics: a comes as f16, or in two parts of f16, and weights are rounded to f16; sums in f32, of eight subgroups.

enable f16;
enable wgpu_cooperative_matrix;

//:variant weight = part/half_f16 | part/half_q4 | part/half_q8g32 | part/half_q8g16 | part/half_q8g32m
//:variant tile = part/few_tile_16_16 | part/few_tile_16_32 | part/few_tile_32_32

//:import part/half_product
//:import part/math

const WORKGROUP: u32 = 256u;
const SUBGROUPS: u32 = WORKGROUP / 32u;
// Octets of the columns of a step, and rows that a subgroup brings in at a time.
const STEP_OCTETS: u32 = 8u;
const PASS: u32 = 32u / STEP_OCTETS;
// vec4s of the columns of a step, and two more that spread a column over the banks of workgroup memory.
const PITCH: u32 = 2u * STEP_OCTETS + 2u;
var<workgroup> weight_tile: array<vec4<f16>, SUBGROUPS * OUTPUTS * PITCH>;
// 16 by 16 sums of each subgroup, in rows of 20.
const OUT_PITCH: u32 = 20u;
var<workgroup> out_tile: array<f32, SUBGROUPS * 16u * OUT_PITCH>;

//:import part/product

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) within: u32,
) {
    let rows = min(count[0], params.rows);
    let tile_row = ROWS * group.x;
    let tile_output = OUTPUTS * group.y;
    // All of a workgroup leave together.
    if tile_row >= rows {
        return;
    }
    // What this thread brings in: an octet of every PASS-th weight row. Beyond the edge it repeats the last.
    let octet = within % STEP_OCTETS;
    let line = within / STEP_OCTETS;
    let last = params.steps - 1u;
    var step = subgroup;
    //:repeat i = 0..PASSES
    let weight_row$(i) = min(tile_output + line + PASS * $(i)u, params.outputs - 1u) * params.weight_pitch;
    var weight_next$(i) = fetch_octet(weight_row$(i), STEP_OCTETS * min(step, last) + octet);
    //:end
    //:repeat i = 0..DOWN
    let a_row$(i) = (tile_row + 16u * $(i)u) * params.a_pitch;
    //:repeat k = 0..4
    var left_next$(i)_$(k) = coopLoadT<coop_mat16x16<f16, A>>(&a[a_row$(i) + 2u * STEP_OCTETS * min(step, last) + 4u * $(k)u], params.a_pitch);
    //:end
    //:repeat j = 0..ACROSS
    var sum$(i)_$(j) = coop_mat16x16<f32, C>();
    //:end
    //:end
    let own = subgroup * OUTPUTS * PITCH;
    let place = own + line * PITCH + 2u * octet;
    // Subgroups wait for themselves only, until their sums meet.
    loop {
        if step > last {
            break;
        }
        //:repeat i = 0..PASSES
        {
            let made = make_octet(weight_next$(i), STEP_OCTETS * step + octet);
            weight_tile[place + $(i)u * PASS * PITCH] = made.low;
            weight_tile[place + $(i)u * PASS * PITCH + 1u] = made.high;
        }
        //:end
        subgroupBarrier();
        step += SUBGROUPS;
        let ahead = min(step, last);
        //:repeat i = 0..PASSES
        weight_next$(i) = fetch_octet(weight_row$(i), STEP_OCTETS * ahead + octet);
        //:end
        //:repeat k = 0..4
        {
            //:repeat j = 0..ACROSS
            let right$(j) = coopLoad<coop_mat16x16<f16, B>>(&weight_tile[own + 16u * $(j)u * PITCH + 4u * $(k)u], PITCH);
            //:end
            //:repeat i = 0..DOWN
            let left$(i) = left_next$(i)_$(k);
            left_next$(i)_$(k) = coopLoadT<coop_mat16x16<f16, A>>(&a[a_row$(i) + 2u * STEP_OCTETS * ahead + 4u * $(k)u], params.a_pitch);
            //:repeat j = 0..ACROSS
            sum$(i)_$(j) = coopMultiplyAdd(left$(i), right$(j), sum$(i)_$(j));
            //:end
            //:end
        }
        //:end
        subgroupBarrier();
    }
    let out_place = subgroup * 16u * OUT_PITCH;
    let out_pitch = OUT_PITCH;
    //:repeat i = 0..DOWN
    //:repeat j = 0..ACROSS
    {
        // naga 30 takes only names here.
        let corner = &out_tile[out_place];
        let product = sum$(i)_$(j);
        coopStoreT(product, corner, out_pitch);
        workgroupBarrier();
        let row = thread / 16u;
        let output = thread % 16u;
        var total = 0.0;
        var smaller = 0.0;
        for (var part = 0u; part < SUBGROUPS; part++) {
            total += out_tile[(part * 16u + row) * OUT_PITCH + output];
            smaller += out_tile[(part * 16u + (row + 8u) % 16u) * OUT_PITCH + output];
        }
        total += select(0.0, smaller / SMALLER, params.parts != 0u);
        if tile_row + 16u * $(i)u + row < rows {
            store(tile_row + 16u * $(i)u + row, tile_output + 16u * $(j)u + output, total);
        }
        workgroupBarrier();
    }
    //:end
    //:end
}
