// Writes exact rows. Needs `staged: array<u32>`, `mean: array<f32>`, `latents: array<u32>`, and of `params` cols, exact_f16 and zero.
//:import part/layout
//:import part/math
//:import part/precise

// Staged elements `column` and `column + 1`, against the mean.
fn staged_pair(source: u32, column: u32) -> vec2<f32> {
    return unpack2x16float(staged[(source * params.cols + column) / 2u]) - vec2<f32>(mean[column], mean[column + 1u]);
}

// Quantises the group from `column` on, whose codes begin at word `to`; the scale's bits.
fn store_group(source: u32, column: u32, to: u32) -> u32 {
    var largest = 0.0;
    for (var i = 0u; i < EXACT_GROUP; i += 2u) {
        let pair = abs(staged_pair(source, column + i));
        largest = max(largest, max(pair.x, pair.y));
    }
    let bits = half_bits(quotient(largest, 127.0));
    let scale = unpack2x16float(bits).x;
    for (var i = 0u; i < EXACT_GROUP; i += 4u) {
        let low = staged_pair(source, column + i);
        let high = staged_pair(source, column + i + 2u);
        var word = 0u;
        //:repeat c = 0..4
        {
            var steps = 0.0;
            if scale > 0.0 {
                steps = clamp(round(quotient(vec4<f32>(low, high)[$(c)], scale)), -127.0, 127.0);
            }
            word |= u32(steps + 128.0) << (8u * $(c)u);
        }
        //:end
        latents[to + i / 4u] = word;
    }
    return bits;
}

// Writes elements 64 part to 64 part + 63 of a staged row into the exact row that begins at word `base`: two groups, whose scales are a word.
fn store_exact(source: u32, base: u32, part: u32) {
    let column = 64u * part;
    if params.exact_f16 != 0u {
        let start = source * params.cols / 2u;
        for (var word = column / 2u; word < min(column + 64u, params.cols) / 2u; word++) {
            let pair = unpack2x16float(staged[start + word]);
            latents[base + word] = half_pair(pair.x, pair.y);
        }
        return;
    }
    var scales = store_group(source, column, base + column / 4u);
    if column + EXACT_GROUP < params.cols {
        scales |= store_group(source, column + EXACT_GROUP, base + (column + EXACT_GROUP) / 4u) << 16u;
    }
    latents[base + params.cols / 4u + part] = scales;
}
