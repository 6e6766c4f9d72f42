// 4-bit codes in groups of 32 with a scale and a minimum. Needs `weight: array<vec4<u32>>` and `params.scale_offset`, the vec4s from a
// row's start to its scales; `row` is the index of a row's first vec4.
//:import part/octet
//:let OCTETS = 4

// The octets of a chunk.
const OCTETS: u32 = 4u;

fn group_scale(row: u32, group: u32) -> vec2<f32> {
    return unpack2x16float(weight[row + params.scale_offset + group / 4u][group % 4u]);
}

fn nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u));
}

fn weight_chunk(row: u32, chunk: u32) -> Chunk {
    return Chunk(weight[row + chunk], group_scale(row, chunk));
}

fn chunk_octet(chunk: Chunk, octet: u32) -> Octet {
    let word = chunk.codes[octet];
    return Octet(
        nibbles(word) * chunk.scale.x + chunk.scale.y,
        nibbles(word >> 16u) * chunk.scale.x + chunk.scale.y,
    );
}

fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let scale = group_scale(row, quad / 8u);
    let word = weight[row + quad / 8u][(quad / 2u) % 4u];
    return nibbles(word >> (16u * (quad & 1u))) * scale.x + scale.y;
}
