// What: base, and residual = x - base, for each token of the blocks; zero for references.
// Contract: engine/contract/src/op/refer.rs
// Grid: y * x_groups + x = tokens; a workgroup a token.
// Shared: 64 bytes for where its references lie.
// Numerics: f32, the references' sum in their order.

const WORKGROUP: u32 = 64u;
//:import part/exact_load
//:import part/staged

struct Params {
    blocks: u32,
    // Workgroups along x.
    x_groups: u32,
    neighbours: u32,
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
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> staged: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> blocks: array<BlockDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read> entries: array<u32>;
@group(0) @binding(5) var<storage, read> mean: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> latents: array<u32>;
@group(0) @binding(7) var<storage, read_write> residual: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> base: array<vec4<f32>>;

// Whether a reference is a sink, and its staged row or first word.
var<workgroup> sources: array<vec2<u32>, 8>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.y * params.x_groups + group.x;
    let number = row / BLOCK;
    if number >= min(count[0], params.blocks) {
        return;
    }
    let block = blocks[number];
    let lane = row % BLOCK;
    let quads = params.cols / 4u;
    if is_reference(lane) {
        for (var quad = thread; quad < quads; quad += WORKGROUP) {
            residual[row * quads + quad] = vec4<f32>();
            if params.has_base != 0u {
                base[row * quads + quad] = vec4<f32>();
            }
        }
        return;
    }
    if thread < params.neighbours {
        let found = ordinal(record_base(block.blocks, block.index), lane, thread);
        if found < block.sinks {
            sources[thread] = vec2<u32>(1u, found);
        } else {
            sources[thread] = vec2<u32>(0u, reference_base(block.blocks, found - block.sinks));
        }
    }
    workgroupBarrier();
    let share = 1.0 / f32(max(params.neighbours, 1u));
    for (var quad = thread; quad < quads; quad += WORKGROUP) {
        var middle = vec4<f32>();
        for (var i = 0u; i < params.neighbours; i++) {
            let source = sources[i];
            if source.x != 0u {
                middle += staged_quad(source.y, quad);
            } else {
                middle += exact_quad(source.y, quad);
            }
        }
        middle *= share;
        if params.neighbours == 0u {
            middle = mean[quad];
        }
        residual[row * quads + quad] = staged_quad(block.source + lane, quad) - middle;
        if params.has_base != 0u {
            base[row * quads + quad] = middle;
        }
    }
}
