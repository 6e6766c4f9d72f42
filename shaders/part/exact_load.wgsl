// Exact rows of latent blocks, and what ordinals name. Needs `latents: array<u32>`, `mean: array<vec4<f32>>`, and of `params` cols,
// exact_words, exact_f16, ordinals_at and ordinal_words besides what part/latent needs.
//:import part/latent

// Elements 4 quad to 4 quad + 3 of the exact row that begins at word `base`.
fn exact_quad(base: u32, quad: u32) -> vec4<f32> {
    if params.exact_f16 != 0u {
        let at = base + 2u * quad;
        return vec4<f32>(unpack2x16float(latents[at]), unpack2x16float(latents[at + 1u]));
    }
    let scales = unpack2x16float(latents[base + params.cols / 4u + quad / 16u]);
    let scale = select(scales.x, scales.y, (quad & 8u) != 0u);
    let codes = (vec4<u32>(latents[base + quad]) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
    return mean[quad] + scale * (vec4<f32>(codes) - 128.0);
}

// The first word of a reference by its number since the sequence's first block, whose entry is `first`.
fn reference_base(first: u32, number: u32) -> u32 {
    return record_base(first, number / params.references) + (number % params.references) * params.exact_words;
}

// Ordinal `index` of a coded token of the block that begins at word `record`.
fn ordinal(record: u32, lane: u32, index: u32) -> u32 {
    let word = latents[record + params.ordinals_at + coded_index(lane) * params.ordinal_words + index / 2u];
    return (word >> (16u * (index & 1u))) & 0xffffu;
}
