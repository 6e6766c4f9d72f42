// What: scores[p, j] = the largest share that any head gives candidate j of pick p; zero beyond the candidates.
// Contract: engine/contract/src/op/observe.rs
// Grid: x = candidates / 64, y = picks; a thread a candidate.
// Shared: none.
// Numerics: f32.

const WORKGROUP: u32 = 64u;
//:import part/layout

struct Params {
    picks: u32,
    // Query heads of a key head, blocks of four among them, and blocks of all.
    group: u32,
    blocks: u32,
    all_blocks: u32,
    // Candidates that a row of scores has room for, and elements of such a row.
    capacity: u32,
    pitch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> count: array<u32>;
@group(0) @binding(2) var<storage, read> picks: array<PickDesc>;
@group(0) @binding(3) var<storage, read> logits: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> stats: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let candidate = group.x * WORKGROUP + thread;
    if group.y >= min(count[0], params.picks) || candidate >= params.capacity {
        return;
    }
    var score = 0.0;
    if candidate < picks[group.y].candidates {
        for (var block = 0u; block < params.all_blocks; block++) {
            let place = group.y * params.all_blocks + block;
            let shares = exp(logits[place * params.capacity + candidate] - stats[2u * place]) * stats[2u * place + 1u];
            // Components beyond the group's heads belong to no head.
            let heads = params.group - 4u * (block % params.blocks);
            //:repeat h = 0..4
            if heads > $(h)u {
                score = max(score, shares[$(h)]);
            }
            //:end
        }
    }
    scores[group.y * params.pitch + candidate] = score;
}
