// What the splits of views leave, and what rows see of those. Needs `params.quads`.
//:import part/layout
@group(0) @binding(4) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> views: array<ViewDesc>;

// Quad `quad` of what place `at` holds.
fn split_sum(at: u32, quad: u32) -> vec4<f32> {
    return sums[at * params.quads + quad];
}

// Its maximum and sum of weights.
fn split_stat(at: u32) -> vec2<f32> {
    return stats[at];
}

// How many tokens of a view a row at `position` sees.
fn row_visible(view: u32, position: u32) -> u32 {
    return view_visible(views[view], position);
}
