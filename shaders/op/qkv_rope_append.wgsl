// What: head norm and rotary embedding of q into `q_out`, of k into the row's slot as f16, v into the slot; or both, or too, as they enter into the staged row.
// Contract: engine/contract/src/op/qkv_rope_append.rs
// Grid: x = heads (q, then k, then v) from `first_head` on, y = rows; a workgroup a head. Slots outside of the window are skipped.
// Shared: 1 KiB for a head, and the reduction's.
// Numerics: f32; cosine and sine by the addition theorem from the table; one rounding to f16, ties to even.

const WORKGROUP: u32 = 64u;
//:variant reduce = part/reduce_subgroup | part/reduce_workgroup
//:variant rows = part/rows_once | part/rows_twice
//:import part/layout
//:import part/math
//:import part/rotation

struct Params {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    first_head: u32,
    // Whether there are head norms, whether keys are stored as they enter, and whether rows go where they are staged, not to their slots.
    has_q_norm: u32,
    has_k_norm: u32,
    unroped: u32,
    staged: u32,
    // Staged rows, where rows go there too.
    staged_rows: u32,
    rope_rows: u32,
    // Elements of a row of q and of a row of k or v; words of a row of the table and of the cache.
    q_pitch: u32,
    kv_in_pitch: u32,
    rope_pitch: u32,
    kv_pitch: u32,
    // The first elements of k and v in their buffers.
    k_first: u32,
    v_first: u32,
    // The window of slots.
    first_slot: u32,
    slots: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q_in: array<f32>;
@group(0) @binding(2) var<storage, read> k_in: array<f32>;
@group(0) @binding(3) var<storage, read> v_in: array<f32>;
@group(0) @binding(4) var<storage, read> rope: array<f32>;
@group(0) @binding(5) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(6) var<storage, read> count: array<u32>;
@group(0) @binding(7) var<storage, read_write> q_out: array<f32>;
@group(0) @binding(8) var<storage, read_write> kv: array<u32>;

var<workgroup> head_tile: array<f32, 256>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let row = group.y;
    let head = params.first_head + group.x;
    if row >= min(count[0], params.rows) {
        return;
    }
    let dim = params.head_dim;
    let half = dim / 2u;
    let is_query = head < params.heads;
    let is_key = !is_query && head < params.heads + params.kv_heads;
    // The head's place among those of its kind.
    let kind_head = select(select(head - params.heads - params.kv_heads, head - params.heads, is_key), head, is_query);
    let base = row * select(params.kv_in_pitch, params.q_pitch, is_query) + kind_head * dim;
    let k_base = base + params.k_first;
    let v_base = base + params.v_first;
    var squares = 0.0;
    for (var e = lane.thread; e < dim; e += WORKGROUP) {
        var value: f32;
        if is_query {
            value = q_in[base + e];
        } else if is_key {
            value = k_in[k_base + e];
        } else {
            value = v_in[v_base + e];
        }
        squares += value * value;
        head_tile[e] = value;
    }
    // All threads have stored their elements when the reduction returns.
    let total = reduce_add4(vec4<f32>(squares, 0.0, 0.0, 0.0), lane).x;
    let normed = (is_query && params.has_q_norm != 0u) || (is_key && params.has_k_norm != 0u);
    let cache_head = kind_head + select(params.kv_heads, 0u, is_key);
    if TWICE {
        let to = rows[row].staged;
        if !is_query && to < params.staged_rows {
            for (var j = lane.thread; j < half; j += WORKGROUP) {
                store_staged(to * params.kv_pitch + cache_head * half + j, half_pair(head_tile[2u * j], head_tile[2u * j + 1u]));
            }
        }
        // All have read the head as it entered.
        workgroupBarrier();
    }
    let factor = select(1.0, 1.0 / sqrt(total / f32(dim) + params.epsilon), normed);
    if is_query || (is_key && params.unroped == 0u) {
        let position = rows[row].position;
        for (var j = lane.thread; j < half; j += WORKGROUP) {
            let x = head_tile[j] * factor * norm_weight(is_query, j);
            let y = head_tile[j + half] * factor * norm_weight(is_query, j + half);
            let pair = turned(position, j, vec2<f32>(x, y));
            head_tile[j] = pair.x;
            head_tile[j + half] = pair.y;
        }
    }
    workgroupBarrier();
    if is_query {
        for (var e = lane.thread; e < dim; e += WORKGROUP) {
            q_out[base + e] = head_tile[e];
        }
        return;
    }
    let slot = select(rows[row].slot, rows[row].staged, params.staged != 0u);
    let local = slot - params.first_slot;
    if slot < params.first_slot || local >= params.slots {
        return;
    }
    let to = local * params.kv_pitch + cache_head * half;
    for (var j = lane.thread; j < half; j += WORKGROUP) {
        kv[to + j] = half_pair(head_tile[2u * j], head_tile[2u * j + 1u]);
    }
}
