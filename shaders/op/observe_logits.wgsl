// What: logits of up to four query heads that share a key head, for the candidates of a pick.
// Contract: engine/contract/src/op/observe.rs
// Grid: x = candidates / 64, y = key heads * blocks of four query heads, z = picks; a thread a candidate.
// Shared: 8 KiB for queries.
// Numerics: f32 from f16 rows.

const WORKGROUP: u32 = 64u;
//:import part/window

struct Params {
    picks: u32,
    heads: u32,
    // Query heads of a key head, and blocks of four among them.
    group: u32,
    blocks: u32,
    head_dim: u32,
    // Candidates that a row of scores has room for.
    capacity: u32,
    // The window of slots, and the vec4s of a slot.
    first_slot: u32,
    slots: u32,
    kv_pitch: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> views: array<ViewDesc>;
@group(0) @binding(6) var<storage, read> entries: array<u32>;
@group(0) @binding(7) var<storage, read> picks: array<PickDesc>;
// [pick][block][candidate]; component h belongs to the block's head h.
@group(0) @binding(8) var<storage, read_write> logits: array<vec4<f32>>;

var<workgroup> tile: array<vec4<f32>, 512>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if group.z >= min(count[0], params.picks) {
        return;
    }
    let pick = picks[group.z];
    let candidates = min(pick.candidates, params.capacity);
    if group.x * WORKGROUP >= candidates {
        return;
    }
    let kv_head = group.y / params.blocks;
    let block = group.y % params.blocks;
    let head = kv_head * params.group + 4u * block;
    let block_heads = min(params.group - 4u * block, 4u);
    let dim = params.head_dim;
    for (var i = thread; i < dim; i += WORKGROUP) {
        let base = (pick.row * params.heads + head) * dim + i;
        var element = vec4<f32>();
        //:repeat h = 0..4
        if block_heads > $(h)u {
            element[$(h)] = q[base + $(h)u * dim];
        }
        //:end
        tile[i] = element * params.scale;
    }
    workgroupBarrier();
    let candidate = group.x * WORKGROUP + thread;
    if candidate >= candidates {
        return;
    }
    let local = local_slot(views[rows[pick.row].view], pick.first + candidate);
    if local == ABSENT {
        return;
    }
    let octets = dim / 8u;
    let base = local * params.kv_pitch + kv_head * octets;
    var sum = vec4<f32>();
    for (var o = 0u; o < octets; o++) {
        let words = kv[base + o];
        //:repeat w = 0..4
        let pair$(w) = unpack2x16float(words[$(w)]);
        sum += tile[8u * o + 2u * $(w)u] * pair$(w).x;
        sum += tile[8u * o + 2u * $(w)u + 1u] * pair$(w).y;
        //:end
    }
    logits[(group.z * groups.y + group.y) * params.capacity + candidate] = sum;
}
