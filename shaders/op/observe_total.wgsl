// What: the largest logit of each head of a block over the candidates of a pick, and the inverse sum of exponentials against it.
// Contract: engine/contract/src/op/observe.rs
// Grid: x = blocks of four query heads, y = picks; 256 threads share the candidates.
// Shared: the reduction's.
// Numerics: f32, by thread and then over threads.

const WORKGROUP: u32 = 256u;
//:variant reduce = part/reduce_subgroup | part/reduce_workgroup
//:import part/layout
//:import part/math

struct Params {
    picks: u32,
    // Candidates that a row of scores has room for.
    capacity: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> count: array<u32>;
@group(0) @binding(2) var<storage, read> picks: array<PickDesc>;
// [pick][block][candidate]
@group(0) @binding(3) var<storage, read> logits: array<vec4<f32>>;
// [pick][block][largest, inverse sum]
@group(0) @binding(4) var<storage, read_write> stats: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
    if group.y >= min(count[0], params.picks) {
        return;
    }
    let candidates = min(picks[group.y].candidates, params.capacity);
    let place = group.y * groups.x + group.x;
    let base = place * params.capacity;
    var largest = vec4<f32>(MASKED);
    for (var i = lane.thread; i < candidates; i += WORKGROUP) {
        largest = max(largest, logits[base + i]);
    }
    largest = reduce_max4(largest, lane);
    var sum = vec4<f32>();
    for (var i = lane.thread; i < candidates; i += WORKGROUP) {
        sum += exp(logits[base + i] - largest);
    }
    sum = reduce_add4(sum, lane);
    if lane.thread == 0u {
        stats[2u * place] = largest;
        stats[2u * place + 1u] = 1.0 / max(sum, vec4<f32>(1.0e-30));
    }
}
