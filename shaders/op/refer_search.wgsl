// What: for each token of a block, the nearest references among one part of the candidates, by distance and of equal ones by ordinal.
// Contract: engine/contract/src/op/refer.rs
// Grid: x = parts of the candidates, y = blocks; 128 threads measure 128 tokens against 64 candidates at a time, each 8 tokens by 8.
// Shared: 13 KiB: 16 columns of the tokens and of the candidates, transposed, or the distances from 16 candidates; and norms.
// Numerics: f32, less the mean, in the order of the columns; what a token adds to all its distances is left out, since ranks do not need it.

const WORKGROUP: u32 = 128u;
//:import part/latent

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
@group(0) @binding(1) var<storage, read> staged: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> blocks: array<BlockDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read> entries: array<u32>;
@group(0) @binding(5) var<storage, read> mean: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> metric: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> latents: array<u32>;
// [block][token][split][neighbour] as the bits of a distance and an ordinal, the nearest first.
@group(0) @binding(8) var<storage, read_write> found: array<vec2<u32>>;

// Neighbours for which there is room: those that are asked for, or more.
override NEAREST: u32 = 8u;

// Further than any candidate.
const FAR: f32 = 3.0e38;

// Element [column * 32 + g] holds tokens 4 g to 4 g + 3; or [g * 128 + token] their distances from candidates 4 g to 4 g + 3 of 16.
var<workgroup> tokens: array<vec4<f32>, 512>;
// Element [column * PITCH + g] holds candidates 4 g to 4 g + 3, times the metric. Columns that two threads of a candidate write are half of the banks
// apart.
const PITCH: u32 = 17u;
var<workgroup> candidates: array<vec4<f32>, 272>;
// [half * 16 + g]: what each of a candidate's two threads found of its norm.
var<workgroup> norms: array<vec4<f32>, 32>;

// Words of two quads of a candidate, and of their scale.
struct Raw {
    low: vec2<u32>,
    high: vec2<u32>,
    scale: u32,
}

// Quads `quad` and `quad + 2` of a candidate that lies at staged row `place`, if it is a sink, or else from word `place` on.
fn fetch(is_sink: bool, place: u32, quad: u32) -> Raw {
    var raw: Raw;
    if is_sink {
        let words = staged[place * (params.cols / 8u) + quad / 2u];
        let next = staged[place * (params.cols / 8u) + quad / 2u + 1u];
        raw.low = select(words.xy, words.zw, quad % 2u == 1u);
        raw.high = select(next.xy, next.zw, quad % 2u == 1u);
    } else if params.exact_f16 != 0u {
        let at = place + 2u * quad;
        raw.low = vec2<u32>(latents[at], latents[at + 1u]);
        raw.high = vec2<u32>(latents[at + 4u], latents[at + 5u]);
    } else {
        raw.low.x = latents[place + quad];
        raw.high.x = latents[place + quad + 2u];
        raw.scale = latents[place + params.cols / 4u + quad / 16u];
    }
    return raw;
}

// Four elements, less the mean.
fn apart(words: vec2<u32>, scale: f32, as_codes: bool, middle: vec4<f32>) -> vec4<f32> {
    if as_codes {
        let codes = (vec4<u32>(words.x) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
        return (middle + scale * (vec4<f32>(codes) - 128.0)) - middle;
    }
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)) - middle;
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
    // What this thread brings in: 16 columns of a token, and two quads of every four of a candidate, which another thread shares.
    let token_place = (block.source + thread) * (params.cols / 8u);
    let brought = thread / 2u;
    let half = thread % 2u;
    // What it measures: tokens 8 down to 8 down + 7 against candidates 4 across to 4 across + 3, and 32 after those.
    let across = thread % 8u;
    let down = thread / 8u;
    // In the end it keeps the best of one token, which sees the candidates below `limit`.
    let limit = min(earlier + thread / params.stride + 1u, end);
    //:repeat i = 0..8
    var least$(i) = FAR;
    var best$(i) = 0u;
    //:end
    let quads = params.cols / 4u;
    for (var at = start; at < end; at += 64u) {
        // Beyond the last candidate it repeats the last.
        let candidate = min(at + brought, end - 1u);
        let is_sink = candidate < block.sinks;
        let as_codes = !is_sink && params.exact_f16 == 0u;
        var place = candidate;
        if !is_sink {
            let number = candidate - block.sinks;
            place = record_base(block.blocks, number / params.references) + (number % params.references) * params.exact_words;
        }
        var norm = 0.0;
        //:repeat r = 0..8
        var near$(r) = vec4<f32>();
        var next$(r) = vec4<f32>();
        //:end
        // Rows are loaded a step ahead.
        var token_low = staged[token_place];
        var token_high = staged[token_place + 1u];
        var raw = fetch(is_sink, place, half);
        for (var first_quad = 0u; first_quad < quads; first_quad += 4u) {
            //:repeat q = 0..4
            let middle$(q) = mean[first_quad + $(q)u];
            //:end
            let weight_low = metric[first_quad + half];
            let weight_high = metric[first_quad + half + 2u];
            // All have read what the last step left.
            workgroupBarrier();
            {
                let part0 = vec4<f32>(unpack2x16float(token_low.x), unpack2x16float(token_low.y)) - middle0;
                let part1 = vec4<f32>(unpack2x16float(token_low.z), unpack2x16float(token_low.w)) - middle1;
                let part2 = vec4<f32>(unpack2x16float(token_high.x), unpack2x16float(token_high.y)) - middle2;
                let part3 = vec4<f32>(unpack2x16float(token_high.z), unpack2x16float(token_high.w)) - middle3;
                //:repeat q = 0..4
                //:repeat c = 0..4
                tokens[(4u * $(q)u + $(c)u) * 32u + thread / 4u][thread % 4u] = part$(q)[$(c)];
                //:end
                //:end
            }
            {
                let halves = unpack2x16float(raw.scale);
                let scale = select(halves.x, halves.y, (first_quad & 8u) != 0u);
                let low = apart(raw.low, scale, as_codes, select(middle0, middle1, half == 1u));
                let high = apart(raw.high, scale, as_codes, select(middle2, middle3, half == 1u));
                let low_weighed = weight_low * low;
                let high_weighed = weight_high * high;
                norm += dot(low, low_weighed) + dot(high, high_weighed);
                //:repeat c = 0..4
                candidates[(4u * half + $(c)u) * PITCH + brought / 4u][brought % 4u] = low_weighed[$(c)];
                candidates[(4u * half + 8u + $(c)u) * PITCH + brought / 4u][brought % 4u] = high_weighed[$(c)];
                //:end
            }
            workgroupBarrier();
            let ahead = min(first_quad + 4u, quads - 4u);
            token_low = staged[token_place + ahead / 2u];
            token_high = staged[token_place + ahead / 2u + 1u];
            raw = fetch(is_sink, place, ahead + half);
            //:repeat c = 0..16
            {
                let low = tokens[$(c)u * 32u + 2u * down];
                let high = tokens[$(c)u * 32u + 2u * down + 1u];
                let left = candidates[$(c)u * PITCH + across];
                let right = candidates[$(c)u * PITCH + 8u + across];
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
        norms[half * 16u + brought / 4u][brought % 4u] = norm;
        workgroupBarrier();
        let left_norm = norms[across] + norms[16u + across];
        let right_norm = norms[8u + across] + norms[24u + across];
        for (var round = 0u; round < 4u; round++) {
            if across / 4u == round % 2u {
                let to = (across % 4u) * 128u + 8u * down;
                if round < 2u {
                    //:repeat r = 0..8
                    tokens[to + $(r)u] = left_norm - 2.0 * near$(r);
                    //:end
                } else {
                    //:repeat r = 0..8
                    tokens[to + $(r)u] = right_norm - 2.0 * next$(r);
                    //:end
                }
            }
            workgroupBarrier();
            for (var g = 0u; g < 4u; g++) {
                let distances = tokens[g * 128u + thread];
                //:repeat c = 0..4
                if at + 16u * round + 4u * g + $(c)u < limit && distances[$(c)] < select(least7, least3, NEAREST <= 4u) {
                    var distance = distances[$(c)];
                    var which = at + 16u * round + 4u * g + $(c)u;
                    // Once it has found its place, all after it move on by one.
                    var placed = false;
                    //:repeat i = 0..8
                    if $(i)u < NEAREST {
                        placed = placed || distance < least$(i);
                        if placed {
                            let moved_distance = least$(i);
                            let moved = best$(i);
                            least$(i) = distance;
                            best$(i) = which;
                            distance = moved_distance;
                            which = moved;
                        }
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
