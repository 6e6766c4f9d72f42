// What: firsts = the largest logit of each chunk of each row, with its token; heads = zeros, where any row draws.
// Contract: engine/contract/src/op/sample.rs
// Grid: x = chunks, y = rows; 256 threads, each of which takes every 256th token.
// Shared: 2.4 KiB for what threads found and for marks of recent tokens.
// Numerics: logits are compared as integers in their order; a penalty rounds once.

//:import part/sample

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> samplings: array<SampleDesc>;
@group(0) @binding(3) var<storage, read> recent: array<u32>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read_write> firsts: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> heads: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.y;
    if row >= min(count[0], params.rows) {
        return;
    }
    let desc = samplings[row];
    let first = group.x * CHUNK;
    mark_recent(desc, first, thread);
    var best = vec2<u32>(0u, 0xffffffffu);
    for (var i = 0u; i < CHUNK / WORKGROUP; i++) {
        let at = i * WORKGROUP + thread;
        best = better(best, vec2<u32>(key_at(row, desc, first, at), first + at));
    }
    best = best_of(best, thread);
    if thread == 0u {
        firsts[row * params.chunks + group.x] = best;
    }
    if params.draws != 0u && group.x == 0u {
        for (var i = thread; i < HEAD; i += WORKGROUP) {
            heads[row * HEAD + i] = 0u;
        }
    }
}
