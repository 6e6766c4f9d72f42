// What: scores[p, j] = the largest share that any head gives candidate j of pick p; zero beyond the candidates.
// Contract: engine/contract/src/op/observe.rs
// Grid: x = candidates / 64, y = picks; a thread a candidate.
// Shared: none.
// Numerics: f32.

const WORKGROUP: u32 = 64u;
// Blocks whose logits a thread loads at once.
const LOADS: u32 = 8u;
//:let LOADS = 8
//:import part/layout

struct Params {
    picks: u32,
    // Blocks of four query heads in this dispatch.
    all_blocks: u32,
    // Candidates that a row of scores has room for, and elements of such a row.
    capacity: u32,
    pitch: u32,
    // Whether an earlier dispatch has seen other blocks.
    resume: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> count: array<u32>;
@group(0) @binding(2) var<storage, read> picks: array<PickDesc>;
// [pick][block][candidate]
@group(0) @binding(3) var<storage, read> logits: array<vec4<f32>>;
// [pick][block][largest, inverse sum]; components that belong to no head have an inverse of 0.
@group(0) @binding(4) var<storage, read> stats: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    // Neither load waits for the other.
    let counted = count[0];
    let candidates = picks[group.y].candidates;
    let candidate = group.x * WORKGROUP + thread;
    if group.y >= min(counted, params.picks) || candidate >= params.capacity {
        return;
    }
    let out = group.y * params.pitch + candidate;
    var best = vec4<f32>();
    if params.resume != 0u {
        best.x = scores[out];
    }
    if candidate < candidates {
        for (var block = 0u; block < params.all_blocks; block += LOADS) {
            //:repeat i = 0..LOADS
            var logit$(i) = vec4<f32>();
            var largest$(i) = vec4<f32>();
            var inverse$(i) = vec4<f32>();
            if block + $(i)u < params.all_blocks {
                let place = group.y * params.all_blocks + block + $(i)u;
                logit$(i) = logits[place * params.capacity + candidate];
                largest$(i) = stats[2u * place];
                inverse$(i) = stats[2u * place + 1u];
            }
            //:end
            //:repeat i = 0..LOADS
            if block + $(i)u < params.all_blocks {
                best = max(best, exp(logit$(i) - largest$(i)) * inverse$(i));
            }
            //:end
        }
    }
    scores[out] = max(max(best.x, best.y), max(best.z, best.w));
}
