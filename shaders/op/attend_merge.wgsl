// What: out[row, head] = the splits' sums, weighed by exp(maximum), over the sum of their weights; zeros where no split saw a token.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = heads, y = rows; a thread takes every 64th element of the head.
// Shared: none.
// Numerics: f32; weights are relative to the largest maximum.

//:import part/layout
//:import part/math

struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,
    split_tokens: u32,
    splits: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> views: array<ViewDesc>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.y;
    let head = group.x;
    if row >= min(count[0], params.rows) {
        return;
    }
    let visible = view_visible(views[rows[row].view], rows[row].position);
    // Splits that see nothing add nothing, and need not be read.
    let used = clamp((visible + params.split_tokens - 1u) / params.split_tokens, 1u, params.splits);
    let first = (row * params.heads + head) * params.splits;
    var largest = MASKED;
    for (var split = first; split < first + used; split++) {
        largest = max(largest, stats[split].x);
    }
    let dim = params.head_dim;
    for (var e = thread; e < dim; e += 64u) {
        var weight_sum = 0.0;
        var value = 0.0;
        for (var split = first; split < first + used; split++) {
            let factor = exp(stats[split].x - largest);
            weight_sum += factor * stats[split].y;
            value += factor * sums[split * dim + e];
        }
        out[(row * params.heads + head) * dim + e] = value / max(weight_sum, 1.0e-30);
    }
}
