// Unsigned 8-bit codes in groups of 32 with a scale and a minimum. Needs `weight: array<vec4<u32>>` and `params.scale_offset`, the vec4s from a
// row's start to its scales; `row` is the index of a row's first vec4.
//:import part/octet
//:let OCTETS = 2

// The octets of a chunk.
const OCTETS: u32 = 2u;

fn group_scale(row: u32, group: u32) -> vec2<f32> {
    return unpack2x16float(weight[row + params.scale_offset + group / 4u][group % 4u]);
}

fn weight_chunk(row: u32, chunk: u32) -> Chunk {
    return Chunk(weight[row + chunk], group_scale(row, chunk / 2u));
}

fn chunk_octet(chunk: Chunk, octet: u32) -> Octet {
    let words = select(chunk.codes.xy, chunk.codes.zw, octet == 1u);
    return Octet(
        vec4<f32>(unpack4xU8(words.x)) * chunk.scale.x + chunk.scale.y,
        vec4<f32>(unpack4xU8(words.y)) * chunk.scale.x + chunk.scale.y,
    );
}

fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let scale = group_scale(row, quad / 8u);
    return vec4<f32>(unpack4xU8(weight[row + quad / 4u][quad % 4u])) * scale.x + scale.y;
}
