// What: the references of all blocks enter `latents` as exact rows.
// Contract: engine/contract/src/op/refer.rs
// Grid: y * x_groups + x = blocks * references * quads of elements / 64; a quad a thread.
// Shared: none.
// Numerics: scales are quotients rounded to f32 and then f16, codes rounded half to even, on every device alike.

//:import part/latent
//:import part/exact_store

struct Params {
    blocks: u32,
    // Workgroups along x.
    x_groups: u32,
    // Always zero.
    zero: u32,
    // The shape of blocks.
    cols: u32,
    words: u32,
    stride: u32,
    references: u32,
    exact_words: u32,
    exact_f16: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> staged: array<u32>;
@group(0) @binding(2) var<storage, read> blocks: array<BlockDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read> entries: array<u32>;
@group(0) @binding(5) var<storage, read> mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> latents: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let id = (group.y * params.x_groups + group.x) * 64u + thread;
    let quads = params.cols / 4u;
    let row = id / quads;
    let number = row / params.references;
    if number >= min(count[0], params.blocks) {
        return;
    }
    let block = blocks[number];
    let reference = row % params.references;
    let base = record_base(block.blocks, block.index) + reference * params.exact_words;
    store_exact(block.source + reference * params.stride, base, id % quads);
}
