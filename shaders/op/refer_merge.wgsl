// What: the ordinals of the references nearest to each coded token of a block, of those that each part of the candidates has, into `latents`.
// Contract: engine/contract/src/op/refer.rs
// Grid: x = blocks; a token a thread.
// Shared: none.
// Numerics: f32 distances; parts come in the order of their ordinals, so that of equal ones the lower stay.

const WORKGROUP: u32 = 128u;
//:import part/latent

struct Params {
    blocks: u32,
    neighbours: u32,
    // The shape of blocks.
    words: u32,
    stride: u32,
    references: u32,
    ordinals_at: u32,
    ordinal_words: u32,
    // Parts of the candidates.
    splits: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> blocks: array<BlockDesc>;
@group(0) @binding(2) var<storage, read> count: array<u32>;
@group(0) @binding(3) var<storage, read> entries: array<u32>;
@group(0) @binding(4) var<storage, read> found: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> latents: array<u32>;

// Further than any candidate.
const FAR: f32 = 3.0e38;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x >= min(count[0], params.blocks) || is_reference(lane) {
        return;
    }
    let block = blocks[group.x];
    let limit = block.sinks + block.index * params.references + lane / params.stride + 1u;
    //:repeat i = 0..8
    var least$(i) = FAR;
    var best$(i) = 0u;
    //:end
    // Parts as the search cuts them; the last ones may be empty.
    let all = block.sinks + block.index * params.references + 127u / params.stride + 1u;
    let share = (all + 64u * params.splits - 1u) / (64u * params.splits) * 64u;
    let used = (all + share - 1u) / share;
    let first = (group.x * 128u + lane) * params.splits * params.neighbours;
    for (var at = first; at < first + used * params.neighbours; at++) {
        var distance = bitcast<f32>(found[at].x);
        var which = found[at].y;
        if distance < least7 {
            // Once it has found its place, all after it move on by one.
            var placed = false;
            //:repeat i = 0..8
            placed = placed || distance < least$(i);
            if placed {
                let moved_distance = least$(i);
                let moved = best$(i);
                least$(i) = distance;
                best$(i) = which;
                distance = moved_distance;
                which = moved;
            }
            //:end
        }
    }
    // Where there are fewer, the nearest stands for the rest.
    //:repeat i = 1..8
    if limit <= $(i)u {
        best$(i) = best0;
    }
    //:end
    let to = record_base(block.blocks, block.index) + params.ordinals_at + coded_index(lane) * params.ordinal_words;
    //:repeat i = 0..8
    let half$(i) = select(0u, best$(i) << (16u * ($(i)u & 1u)), $(i)u < params.neighbours);
    //:end
    latents[to] = half0 | half1;
    if params.ordinal_words > 1u {
        latents[to + 1u] = half2 | half3;
    }
    if params.ordinal_words > 2u {
        latents[to + 2u] = half4 | half5;
    }
    if params.ordinal_words > 3u {
        latents[to + 3u] = half6 | half7;
    }
}
