// What: for each token of a block, the nearest references among one part of the candidates, by distance and of equal ones by ordinal.
// Contract: engine/contract/src/op/refer.rs
// Grid: x = parts of the candidates, y = blocks; 128 threads measure 128 tokens against 64 candidates at a time, each 8 tokens by 8.
// Shared: 13 KiB: 16 columns of the tokens and of the candidates, transposed, or the distances from 16 candidates; and norms.
// Numerics: f32, less the mean, in the order of the columns; what a token adds to all its distances is left out, since ranks do not need it.

const WORKGROUP: u32 = 128u;
//:import part/exact_load
//:import part/staged

struct Params {
    blocks: u32,
    neighbours: u32,
    // The shape of blocks.
    cols: u32,
    words: u32,
    stride: u32,
    references: u32,
    exact_words: u32,
    exact_f16: u32,
    ordinals_at: u32,
    ordinal_words: u32,
    // Parts of the candidates.
    splits: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> staged: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> blocks: array<BlockDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read> entries: array<u32>;
@group(0) @binding(5) var<storage, read> mean: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> metric: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> latents: array<u32>;
// [block][token][split][neighbour] as the bits of a distance and an ordinal, the nearest first.
@group(0) @binding(8) var<storage, read_write> found: array<vec2<u32>>;

// Further than any candidate.
const FAR: f32 = 3.0e38;

// Element [column * 32 + g] holds tokens 4 g to 4 g + 3; or [g * 128 + token] their distances from candidates 4 g to 4 g + 3 of 16.
var<workgroup> tokens: array<vec4<f32>, 512>;
// Element [column * 16 + g] holds candidates 4 g to 4 g + 3, times the metric; [quad * 16 + g] the parts of their norms.
var<workgroup> candidates: array<vec4<f32>, 256>;
var<workgroup> norms: array<vec4<f32>, 64>;

// Where a candidate lies: a staged row, or the first word of a reference.
fn place(block: BlockDesc, candidate: u32) -> u32 {
    if candidate < block.sinks {
        return candidate;
    }
    return reference_base(block.blocks, candidate - block.sinks);
}

fn candidate_quad(block: BlockDesc, candidate: u32, place: u32, quad: u32) -> vec4<f32> {
    if candidate < block.sinks {
        return staged_quad(place, quad);
    }
    return exact_quad(place, quad);
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if group.y >= min(count[0], params.blocks) {
        return;
    }
    let block = blocks[group.y];
    // Candidates of a token: those before its block, and those of its block up to itself.
    let earlier = block.sinks + block.index * params.references;
    let all = earlier + 127u / params.stride + 1u;
    let share = (all + 64u * params.splits - 1u) / (64u * params.splits) * 64u;
    let start = min(group.x * share, all);
    let end = min(start + share, all);
    // What this thread brings in: one quad of columns of four tokens and, of the first 64 threads, of four candidates.
    let token_part = thread % 32u;
    let token_quad = thread / 32u;
    let token_row = block.source + 4u * token_part;
    let part = thread % 16u;
    let quad = (thread / 16u) % 4u;
    // What it measures: tokens 8 down to 8 down + 7 against candidates 8 across to 8 across + 7.
    let across = thread % 8u;
    let down = thread / 8u;
    // In the end it keeps the best of one token, which sees the candidates below `limit`.
    let limit = min(earlier + thread / params.stride + 1u, end);
    //:repeat i = 0..8
    var least$(i) = FAR;
    var best$(i) = 0u;
    //:end
    for (var at = start; at < end; at += 64u) {
        // Beyond the last candidate it repeats the last.
        //:repeat i = 0..4
        let candidate$(i) = min(at + 4u * part + $(i)u, end - 1u);
        let place$(i) = place(block, candidate$(i));
        //:end
        var norm = vec4<f32>();
        //:repeat r = 0..8
        var near$(r) = vec4<f32>();
        var next$(r) = vec4<f32>();
        //:end
        for (var first_quad = 0u; first_quad < params.cols / 4u; first_quad += 4u) {
            // All have read what the last step left.
            workgroupBarrier();
            {
                let source = first_quad + token_quad;
                let middle = mean[source];
                //:repeat i = 0..4
                let quad$(i) = staged_quad(token_row + $(i)u, source) - middle;
                //:end
                //:repeat c = 0..4
                tokens[(4u * token_quad + $(c)u) * 32u + token_part] = vec4<f32>(quad0[$(c)], quad1[$(c)], quad2[$(c)], quad3[$(c)]);
                //:end
            }
            if thread < 64u {
                let source = first_quad + quad;
                let middle = mean[source];
                let weight = metric[source];
                //:repeat i = 0..4
                let apart$(i) = candidate_quad(block, candidate$(i), place$(i), source) - middle;
                let weighed$(i) = weight * apart$(i);
                //:end
                norm += vec4<f32>(dot(apart0, weighed0), dot(apart1, weighed1), dot(apart2, weighed2), dot(apart3, weighed3));
                //:repeat c = 0..4
                candidates[(4u * quad + $(c)u) * 16u + part] = vec4<f32>(weighed0[$(c)], weighed1[$(c)], weighed2[$(c)], weighed3[$(c)]);
                //:end
            }
            workgroupBarrier();
            //:repeat c = 0..16
            {
                let low = tokens[$(c)u * 32u + 2u * down];
                let high = tokens[$(c)u * 32u + 2u * down + 1u];
                let left = candidates[$(c)u * 16u + 2u * across];
                let right = candidates[$(c)u * 16u + 2u * across + 1u];
                //:repeat r = 0..4
                near$(r) += low[$(r)] * left;
                next$(r) += low[$(r)] * right;
                //:end
                //:repeat r = 4..8
                near$(r) += high[$(r) - 4] * left;
                next$(r) += high[$(r) - 4] * right;
                //:end
            }
            //:end
        }
        if thread < 64u {
            norms[quad * 16u + part] = norm;
        }
        workgroupBarrier();
        let left_norm = norms[2u * across] + norms[16u + 2u * across] + norms[32u + 2u * across] + norms[48u + 2u * across];
        let right_norm = norms[2u * across + 1u] + norms[17u + 2u * across] + norms[33u + 2u * across] + norms[49u + 2u * across];
        for (var round = 0u; round < 4u; round++) {
            if across / 2u == round {
                let to = (across % 2u) * 256u + 8u * down;
                //:repeat r = 0..8
                tokens[to + $(r)u] = left_norm - 2.0 * near$(r);
                tokens[to + 128u + $(r)u] = right_norm - 2.0 * next$(r);
                //:end
            }
            workgroupBarrier();
            for (var g = 0u; g < 4u; g++) {
                let distances = tokens[g * 128u + thread];
                //:repeat c = 0..4
                if at + 16u * round + 4u * g + $(c)u < limit && distances[$(c)] < least7 {
                    var distance = distances[$(c)];
                    var which = at + 16u * round + 4u * g + $(c)u;
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
                //:end
            }
            workgroupBarrier();
        }
    }
    let to = ((group.y * 128u + thread) * params.splits + group.x) * params.neighbours;
    //:repeat i = 0..8
    if $(i)u < params.neighbours {
        found[to + $(i)u] = vec2<u32>(bitcast<u32>(least$(i)), best$(i));
    }
    //:end
}
