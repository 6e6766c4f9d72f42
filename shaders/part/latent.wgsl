// Latent blocks. Needs `entries: array<u32>`, and of `params` stride (1 without references), references (of a block) and words.
//:import part/layout

// Whether a token of a block is a reference.
fn is_reference(lane: u32) -> bool {
    return params.references != 0u && lane % params.stride == 0u;
}

// The place among the coded tokens of a token that is no reference.
fn coded_index(lane: u32) -> u32 {
    return lane - select(0u, lane / params.stride + 1u, params.references != 0u);
}

// The first word of block `index` of the sequence whose blocks begin at entry `first`.
fn record_base(first: u32, index: u32) -> u32 {
    return entry_index(entries[first + index]) * params.words;
}
