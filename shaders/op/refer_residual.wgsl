// What: the ordinals of a token's nearest references, of those that each part has, into `latents`; base, and residual = x - base, zero for references.
// Contract: engine/contract/src/op/refer.rs
// Grid: y * x_groups + x = tokens / TOKENS; 128 threads, a team of them for each of TOKENS tokens.
// Shared: 8 KiB of distances and ordinals, and 384 bytes for the nearest and where they lie.
// Numerics: f32 distances; parts come in the order of their ordinals, so that of equal ones the lower come first. f32, the references' sum in their
// order.

const WORKGROUP: u32 = 128u;
//:import part/latent
//:import part/staged

struct Params {
    blocks: u32,
    // Workgroups along x.
    x_groups: u32,
    // Whether bases are asked for.
    has_base: u32,
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
@group(0) @binding(6) var<storage, read_write> latents: array<u32>;
@group(0) @binding(7) var<storage, read_write> residual: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> base: array<vec4<f32>>;
// [block][token][split][neighbour] as the bits of a distance and an ordinal, the nearest first.
@group(0) @binding(9) var<storage, read> found: array<vec2<u32>>;

// Tokens of a workgroup: 1, or 4 where there is room for what their parts have.
override TOKENS: u32 = 4u;
override NEIGHBOURS: u32 = 4u;

// Further than any candidate.
const FAR: f32 = 3.0e38;

// Four pairs an element; each token has its share.
const ROOM: u32 = 256u;
var<workgroup> distances: array<vec4<f32>, ROOM>;
var<workgroup> ordinals: array<vec4<u32>, ROOM>;
// Of each token the nearest; whether a reference is a sink, and its staged row or first word.
var<workgroup> nearest: array<u32, 32>;
var<workgroup> sources: array<vec2<u32>, 32>;

// The words of four elements of a reference, and of their scale.
fn fetch(source: vec2<u32>, quad: u32) -> vec3<u32> {
    if source.x != 0u {
        return vec3<u32>(staged[source.y * (params.cols / 4u) + quad], 0u);
    }
    if params.exact_f16 != 0u {
        let at = source.y + 2u * quad;
        return vec3<u32>(latents[at], latents[at + 1u], 0u);
    }
    return vec3<u32>(latents[source.y + quad], 0u, latents[source.y + params.cols / 4u + quad / 16u]);
}

fn made(words: vec3<u32>, is_sink: bool, quad: u32, middle: vec4<f32>) -> vec4<f32> {
    if is_sink || params.exact_f16 != 0u {
        return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
    }
    let scales = unpack2x16float(words.z);
    let scale = select(scales.x, scales.y, (quad & 8u) != 0u);
    let codes = (vec4<u32>(words.x) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
    return middle + scale * (vec4<f32>(codes) - 128.0);
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let team_size = WORKGROUP / TOKENS;
    let team = thread / team_size;
    let own = thread % team_size;
    // All of the workgroup's tokens are in one block.
    let row = (group.y * params.x_groups + group.x) * TOKENS + team;
    let number = row / BLOCK;
    if number >= min(count[0], params.blocks) {
        return;
    }
    let block = blocks[number];
    let lane = row % BLOCK;
    let coded = !is_reference(lane);
    if NEIGHBOURS != 0u {
        // Parts as the search cuts them; the last ones may be empty.
        let before = block.sinks + block.index * params.references;
        let all = before + 127u / params.stride + 1u;
        let share = (all + 64u * params.splits - 1u) / (64u * params.splits) * 64u;
        let pairs = (all + share - 1u) / share * NEIGHBOURS;
        let first = row * params.splits * NEIGHBOURS;
        let room = team * (ROOM / TOKENS);
        for (var at = own; at < (pairs + 3u) / 4u * 4u; at += team_size) {
            var pair = vec2<u32>(bitcast<u32>(FAR), 0u);
            if at < pairs {
                pair = found[first + at];
            }
            distances[room + at / 4u][at % 4u] = bitcast<f32>(pair.x);
            ordinals[room + at / 4u][at % 4u] = pair.y;
        }
        workgroupBarrier();
        for (var at = own; at < pairs; at += team_size) {
            let distance = distances[room + at / 4u][at % 4u];
            var nearer = 0u;
            for (var g = 0u; 4u * g < pairs; g++) {
                let others = distances[room + g];
                //:repeat c = 0..4
                nearer += u32(others[$(c)] < distance || (others[$(c)] == distance && 4u * g + $(c)u < at));
                //:end
            }
            if nearer < NEIGHBOURS {
                nearest[8u * team + nearer] = ordinals[room + at / 4u][at % 4u];
            }
        }
        workgroupBarrier();
        // Where there are fewer, the nearest stands for the rest.
        let limit = before + lane / params.stride + 1u;
        if own < NEIGHBOURS {
            let which = nearest[8u * team + select(0u, own, own < limit)];
            if which < block.sinks {
                sources[8u * team + own] = vec2<u32>(1u, which);
            } else {
                let reference = which - block.sinks;
                let place = record_base(block.blocks, reference / params.references) + (reference % params.references) * params.exact_words;
                sources[8u * team + own] = vec2<u32>(0u, place);
            }
        }
        if coded && own < params.ordinal_words {
            let low = nearest[8u * team + select(0u, 2u * own, 2u * own < limit)];
            let second = 2u * own + 1u;
            let high = nearest[8u * team + select(0u, second, second < limit)];
            let to = record_base(block.blocks, block.index) + params.ordinals_at + coded_index(lane) * params.ordinal_words;
            latents[to + own] = low | select(0u, high << 16u, second < NEIGHBOURS);
        }
        workgroupBarrier();
    }
    let quads = params.cols / 4u;
    for (var quad = own; quad < quads; quad += team_size) {
        let x = staged_quad(block.source + lane, quad);
        let center = mean[quad];
        // All are under way before the first is needed.
        //:repeat i = 0..8
        var words$(i) = vec3<u32>();
        var is_sink$(i) = false;
        if $(i)u < NEIGHBOURS {
            let source = sources[8u * team + $(i)u];
            is_sink$(i) = source.x != 0u;
            words$(i) = fetch(source, quad);
        }
        //:end
        var middle = vec4<f32>();
        //:repeat i = 0..8
        if $(i)u < NEIGHBOURS {
            middle += made(words$(i), is_sink$(i), quad, center);
        }
        //:end
        middle *= 1.0 / f32(max(NEIGHBOURS, 1u));
        if NEIGHBOURS == 0u {
            middle = center;
        }
        if !coded {
            middle = vec4<f32>();
        }
        residual[row * quads + quad] = select(vec4<f32>(), x - middle, coded);
        if params.has_base != 0u {
            base[row * quads + quad] = middle;
        }
    }
}
