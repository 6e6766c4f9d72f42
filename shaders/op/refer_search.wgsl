// What: the ordinals of the references nearest to each coded token of a block, into `latents`.
// Contract: engine/contract/src/op/refer.rs
// Grid: x = quarters of a block, y = blocks; 128 threads measure 32 tokens against 64 candidates at a time, each 4 tokens by 4 candidates.
// Shared: 12 KiB: 32 columns of the tokens and of the candidates, transposed, or the distances of one step; and 128 bytes of the metric.
// Numerics: f32, in the order of the columns; candidates come in the order of their ordinals, so that of equal ones the lower stay.

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
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> staged: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> blocks: array<BlockDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read> entries: array<u32>;
@group(0) @binding(5) var<storage, read> mean: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> metric: array<f32>;
@group(0) @binding(7) var<storage, read_write> latents: array<u32>;

// Element [column * 8 + g] holds tokens 4 g to 4 g + 3; [column * 16 + g] candidates 4 g to 4 g + 3, or [g * 32 + token] their distances.
var<workgroup> tokens: array<vec4<f32>, 256>;
var<workgroup> candidates: array<vec4<f32>, 512>;
var<workgroup> weights: array<f32, 32>;

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
    let first_lane = 32u * group.x;
    // Candidates of a token: those before its block, and those of its block up to itself.
    let earlier = block.sinks + block.index * params.references;
    let all = earlier + (first_lane + 31u) / params.stride + 1u;
    // What this thread brings in: one quad of columns of four candidates and, of the first 64 threads, of four tokens.
    let part = thread % 16u;
    let quad = thread / 16u;
    let token_part = thread % 8u;
    let token_quad = thread / 8u;
    // What it measures: tokens 4 down to 4 down + 3 against candidates 4 across to 4 across + 3.
    let across = thread % 16u;
    let down = thread / 16u;
    // In the end each of the first 32 threads keeps the best of one token, which sees the candidates below `limit`.
    let lane = first_lane + thread % 32u;
    let limit = earlier + lane / params.stride + 1u;
    //:repeat i = 0..8
    var least$(i) = 3.0e38;
    var best$(i) = 0u;
    //:end
    for (var at = 0u; at < all; at += 64u) {
        // Beyond the last candidate it repeats the last.
        //:repeat i = 0..4
        let candidate$(i) = min(at + 4u * part + $(i)u, all - 1u);
        let place$(i) = place(block, candidate$(i));
        //:end
        //:repeat r = 0..4
        var sum$(r) = vec4<f32>();
        //:end
        for (var column = 0u; column < params.cols; column += 32u) {
            // All have read what the last step left.
            workgroupBarrier();
            {
                let start = column / 4u + quad;
                //:repeat i = 0..4
                let quad$(i) = candidate_quad(block, candidate$(i), place$(i), start);
                //:end
                //:repeat c = 0..4
                candidates[(4u * quad + $(c)u) * 16u + part] = vec4<f32>(quad0[$(c)], quad1[$(c)], quad2[$(c)], quad3[$(c)]);
                //:end
            }
            if thread < 64u {
                let row = block.source + first_lane + 4u * token_part;
                let start = column / 4u + token_quad;
                //:repeat i = 0..4
                let quad$(i) = staged_quad(row + $(i)u, start);
                //:end
                //:repeat c = 0..4
                tokens[(4u * token_quad + $(c)u) * 8u + token_part] = vec4<f32>(quad0[$(c)], quad1[$(c)], quad2[$(c)], quad3[$(c)]);
                //:end
            }
            if thread < 32u {
                weights[thread] = metric[column + thread];
            }
            workgroupBarrier();
            for (var c = 0u; c < 32u; c++) {
                let token = tokens[c * 8u + down];
                let candidate = candidates[c * 16u + across];
                let weight = weights[c];
                //:repeat r = 0..4
                let apart$(r) = token[$(r)] - candidate;
                sum$(r) += weight * apart$(r) * apart$(r);
                //:end
            }
        }
        workgroupBarrier();
        //:repeat r = 0..4
        candidates[across * 32u + 4u * down + $(r)u] = sum$(r);
        //:end
        workgroupBarrier();
        if thread < 32u {
            for (var g = 0u; g < 16u; g++) {
                let distances = candidates[g * 32u + thread];
                //:repeat c = 0..4
                if at + 4u * g + $(c)u < limit && distances[$(c)] < least7 {
                    var distance = distances[$(c)];
                    var which = at + 4u * g + $(c)u;
                    // Once it has found its place, all after it move on by one.
                    var found = false;
                    //:repeat i = 0..8
                    found = found || distance < least$(i);
                    if found {
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
        }
    }
    if thread < 32u && !is_reference(lane) {
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
}
