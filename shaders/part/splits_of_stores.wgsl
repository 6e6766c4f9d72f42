// What the splits of stores leave, and what rows see of those. Needs `params.quads`.
//:import part/layout
// Of each place, what is summed, and behind it the maximum and the sum of weights.
@group(0) @binding(4) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> stores: array<StoreDesc>;

// Quad `quad` of what place `at` holds.
fn split_sum(at: u32, quad: u32) -> vec4<f32> {
    return sums[at * (params.quads + 1u) + quad];
}

// Its maximum and sum of weights.
fn split_stat(at: u32) -> vec2<f32> {
    return sums[at * (params.quads + 1u) + params.quads].xy;
}

// How many tokens of a store a row at `position` sees.
fn row_visible(store: u32, position: u32) -> u32 {
    return min(stores[store].length, position + 1u);
}
