// Unsigned 8-bit codes in groups of 32 with a scale and a minimum, for matrix units. Needs `params.scale_offset`; `row` is the index of a row's
// first vec4.
//:import part/half8
@group(0) @binding(1) var<storage, read> weight: array<vec4<u32>>;

// What is fetched of an octet ahead of its use: codes, and the word of its group's scale and minimum.
struct Fetched {
    codes: vec2<u32>,
    scale: u32,
}

fn fetch_octet(row: u32, octet: u32) -> Fetched {
    let codes = weight[row + octet / 2u];
    let word = octet / 4u;
    return Fetched(
        select(codes.xy, codes.zw, (octet & 1u) == 1u),
        weight[row + params.scale_offset + word / 4u][word % 4u],
    );
}

// The octet, once it has arrived.
fn make_octet(fetched: Fetched, octet: u32) -> Half8 {
    let scale = unpack2x16float(fetched.scale);
    return Half8(
        vec4<f16>(vec4<f32>(unpack4xU8(fetched.codes.x)) * scale.x + scale.y),
        vec4<f16>(vec4<f32>(unpack4xU8(fetched.codes.y)) * scale.x + scale.y),
    );
}
