// What: the tokens of each block with the largest errors as exact rows into `latents`, and its gains.
// Contract: engine/contract/src/op/pack.rs
// Grid: x = blocks, y = parts of their work; 128 threads, a token each and then a quad of a row.
// Shared: 1 KiB of errors, and 1 KiB of gains and chosen tokens.
// Numerics: errors are ordered as pairs; exact rows are rounded on every device alike.

const WORKGROUP: u32 = 128u;
//:import part/latent
//:import part/exact_store

struct Params {
    blocks: u32,
    // Workgroups along y.
    y_groups: u32,
    // Whether there are gains.
    gains: u32,
    // Always zero.
    zero: u32,
    // The shape of blocks.
    cols: u32,
    words: u32,
    stride: u32,
    references: u32,
    exact_words: u32,
    exact_f16: u32,
    scales_at: u32,
    escapes_at: u32,
    escapes: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> outcomes: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> staged: array<u32>;
@group(0) @binding(3) var<storage, read> blocks: array<BlockDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> entries: array<u32>;
@group(0) @binding(6) var<storage, read> mean: array<f32>;
@group(0) @binding(7) var<storage, read_write> latents: array<u32>;

// By token, and the coded tokens' gains by their place.
var<workgroup> errors: array<vec2<f32>, WORKGROUP>;
var<workgroup> gains: array<u32, WORKGROUP>;
var<workgroup> chosen: array<u32, WORKGROUP>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if group.x >= min(count[0], params.blocks) {
        return;
    }
    let block = blocks[group.x];
    let record = record_base(block.blocks, block.index);
    let coded = !is_reference(thread);
    let outcome = outcomes[group.x * BLOCK + thread];
    // References are behind all others.
    errors[thread] = select(vec2<f32>(-3.0e38, 0.0), outcome.xy, coded);
    gains[thread] = 0u;
    chosen[thread] = 0xffffffffu;
    workgroupBarrier();
    if coded {
        gains[coded_index(thread)] = bitcast<u32>(outcome.z);
        var worse = 0u;
        for (var first = 0u; first < BLOCK; first += 8u) {
            //:repeat i = 0..8
            {
                let other = errors[first + $(i)u];
                let equal = other.x == outcome.x && (other.y > outcome.y || (other.y == outcome.y && first + $(i)u < thread));
                worse += u32(other.x > outcome.x || equal);
            }
            //:end
        }
        chosen[worse] = thread;
    }
    workgroupBarrier();
    if params.gains != 0u && group.y == 0u {
        let all = BLOCK - params.references;
        if 2u * thread < all {
            latents[record + params.scales_at + thread] = gains[2u * thread] | (gains[2u * thread + 1u] << 16u);
        }
    }
    let first = record + params.escapes_at;
    if thread < params.escapes && group.y == 0u {
        latents[first + thread] = chosen[thread];
    }
    let quads = params.cols / 4u;
    for (var i = group.y * WORKGROUP + thread; i < params.escapes * quads; i += params.y_groups * WORKGROUP) {
        let lane = chosen[i / quads];
        if lane != 0xffffffffu {
            let base = first + params.escapes + i / quads * params.exact_words;
            store_exact(block.source + lane, base, i % quads);
        }
    }
    if group.y != 0u {
        return;
    }
    // Rows without a token, and what fills up the record.
    let used = params.escapes + min(params.escapes, BLOCK - params.references) * params.exact_words;
    for (var word = params.escapes_at + used + thread; word < params.words; word += WORKGROUP) {
        latents[record + word] = 0u;
    }
}
