// Writes exact rows. Needs `staged: array<u32>`, `mean: array<f32>`, `latents: array<u32>`, and of `params` cols, exact_f16 and zero.
//:import part/layout
//:import part/math
//:import part/precise

// Staged elements `column` and `column + 1`, against the mean.
fn staged_pair(source: u32, column: u32) -> vec2<f32> {
    return unpack2x16float(staged[(source * params.cols + column) / 2u]) - vec2<f32>(mean[column], mean[column + 1u]);
}

// The bits of the scale of the group from `column` on.
fn group_scale(source: u32, column: u32) -> u32 {
    // All loads at once.
    //:repeat i = 0..16
    let pair$(i) = abs(staged_pair(source, column + 2u * $(i)u));
    //:end
    var largest = 0.0;
    //:repeat i = 0..16
    largest = max(largest, max(pair$(i).x, pair$(i).y));
    //:end
    return half_bits(quotient(largest, 127.0));
}

// Writes elements 4 quad to 4 quad + 3 of a staged row into the exact row that begins at word `base`, and the word of scales that begins with
// them. Each thread finds its group's scale anew: few threads that share it would be slower.
fn store_exact(source: u32, base: u32, quad: u32) {
    let column = 4u * quad;
    if params.exact_f16 != 0u {
        let start = (source * params.cols + column) / 2u;
        let low = unpack2x16float(staged[start]);
        let high = unpack2x16float(staged[start + 1u]);
        latents[base + 2u * quad] = half_pair(low.x, low.y);
        latents[base + 2u * quad + 1u] = half_pair(high.x, high.y);
        return;
    }
    let first = column / EXACT_GROUP * EXACT_GROUP;
    let bits = group_scale(source, first);
    let scale = unpack2x16float(bits).x;
    let elements = vec4<f32>(staged_pair(source, column), staged_pair(source, column + 2u));
    var word = 0u;
    //:repeat c = 0..4
    {
        var steps = 0.0;
        if scale > 0.0 {
            steps = clamp(round(quotient(elements[$(c)], scale)), -127.0, 127.0);
        }
        word |= u32(steps + 128.0) << (8u * $(c)u);
    }
    //:end
    latents[base + quad] = word;
    if quad % 16u == 0u {
        var scales = bits;
        if first + EXACT_GROUP < params.cols {
            scales |= group_scale(source, first + EXACT_GROUP) << 16u;
        }
        latents[base + params.cols / 4u + quad / 16u] = scales;
    }
}
