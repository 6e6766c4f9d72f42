// What: head norm and rotary embedding of restored keys, and values as they are, into scratch rows as f16.
// Contract: engine/contract/src/op/rope.rs
// Grid: y * x_groups + x = rows * parts; a workgroup takes `each` heads of a row (keys, then values), one after another.
// Shared: 1 KiB for a head, and the reduction's.
// Numerics: f32; cosine and sine by the addition theorem from the table; one rounding to f16, ties to even.

const WORKGROUP: u32 = 64u;
//:variant reduce = part/reduce_subgroup | part/reduce_workgroup
//:import part/math
//:import part/restored
//:import part/rotation

struct Params {
    rows: u32,
    // Workgroups along x.
    x_groups: u32,
    // The first row of this dispatch, how many it has, and the slot of the first in the window of scratch rows.
    begin: u32,
    size: u32,
    slot: u32,
    // The window's slots, for rows that name theirs.
    first_slot: u32,
    slots: u32,
    // Heads of a row that a workgroup takes, and workgroups of a row.
    each: u32,
    parts: u32,
    // Rows from one sequence to the next, and the first row of the op.
    pitch: u32,
    first: u32,
    naming: u32,
    tokens_pitch: u32,
    has_norm: u32,
    heads: u32,
    head_dim: u32,
    rope_rows: u32,
    // Elements of a row of x and of the table; words of a scratch row.
    x_pitch: u32,
    rope_pitch: u32,
    kv_pitch: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> tokens: array<u32>;
@group(0) @binding(3) var<storage, read> stores: array<StoreDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> norm: array<f32>;
@group(0) @binding(6) var<storage, read> rope: array<f32>;
@group(0) @binding(7) var<storage, read_write> kv: array<u32>;

var<workgroup> head_tile: array<f32, 256>;

fn restore_head(row: u32, position: u32, slot: u32, head: u32, lane: Lane) {
    let dim = params.head_dim;
    let half = dim / 2u;
    let is_key = 2u * head < params.heads;
    let base = row * params.x_pitch + head * dim;
    var squares = 0.0;
    for (var e = lane.thread; e < dim; e += WORKGROUP) {
        let value = x[base + e];
        squares += value * value;
        head_tile[e] = value;
    }
    // All threads have stored their elements when the reduction returns.
    let total = reduce_add4(vec4<f32>(squares, 0.0, 0.0, 0.0), lane).x;
    if is_key {
        let normed = params.has_norm != 0u;
        let factor = select(1.0, 1.0 / sqrt(total / f32(dim) + params.epsilon), normed);
        for (var j = lane.thread; j < half; j += WORKGROUP) {
            var weight = vec2<f32>(1.0);
            if normed {
                weight = vec2<f32>(norm[j], norm[j + half]);
            }
            let pair = turned(position, j, vec2<f32>(head_tile[j], head_tile[j + half]) * factor * weight);
            head_tile[j] = pair.x;
            head_tile[j + half] = pair.y;
        }
    }
    workgroupBarrier();
    let to = slot * params.kv_pitch + head * half;
    for (var j = lane.thread; j < half; j += WORKGROUP) {
        kv[to + j] = half_pair(head_tile[2u * j], head_tile[2u * j + 1u]);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let id = group.y * params.x_groups + group.x;
    let index = id / params.parts;
    let row = params.begin + index;
    if index >= params.size || row >= min(count[0], params.rows) {
        return;
    }
    let position = row_position(row);
    if position == ABSENT {
        return;
    }
    var slot = params.slot + index;
    if params.naming == MISSING {
        let named = tokens[4u * (params.first + row) + 2u];
        slot = named - params.first_slot;
        if named < params.first_slot || slot >= params.slots {
            return;
        }
    }
    let begin = id % params.parts * params.each;
    for (var head = begin; head < min(begin + params.each, params.heads); head++) {
        restore_head(row, position, slot, head, lane);
        // The head's elements are stored before the next overwrites them.
        workgroupBarrier();
    }
}
