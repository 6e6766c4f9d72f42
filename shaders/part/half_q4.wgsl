// 4-bit codes in groups of 32 with a scale and a minimum, for matrix units. Needs `params.scale_offset`; `row` is the index of a row's
// first vec4.
//:import part/half8
//:import part/weight_q4
@group(0) @binding(1) var<storage, read> weight: array<vec4<u32>>;

// What is fetched of an octet ahead of its use: codes, and the word of its group's scale and minimum.
struct Fetched {
    codes: u32,
    scale: u32,
}

fn fetch_octet(row: u32, octet: u32) -> Fetched {
    let group = octet / 4u;
    return Fetched(weight[row + group][octet % 4u], weight[row + params.scale_offset + group / 4u][group % 4u]);
}

// The octet, once it has arrived.
fn make_octet(fetched: Fetched, octet: u32) -> Half8 {
    let scale = unpack2x16float(fetched.scale);
    return Half8(
        vec4<f16>(nibbles(fetched.codes) * scale.x + scale.y),
        vec4<f16>(nibbles(fetched.codes >> 16u) * scale.x + scale.y),
    );
}
