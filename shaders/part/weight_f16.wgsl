// Weights as f16. Needs `weight: array<vec4<u32>>`; `row` is the index of a row's first vec4.
//:import part/octet
//:let OCTETS = 1

// The octets of a chunk.
const OCTETS: u32 = 1u;

fn weight_chunk(row: u32, chunk: u32) -> Chunk {
    return Chunk(weight[row + chunk], vec2<f32>(1.0, 0.0));
}

fn chunk_octet(chunk: Chunk, octet: u32) -> Octet {
    let codes = chunk.codes;
    return Octet(
        vec4<f32>(unpack2x16float(codes.x), unpack2x16float(codes.y)),
        vec4<f32>(unpack2x16float(codes.z), unpack2x16float(codes.w)),
    );
}

fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let codes = weight[row + quad / 2u];
    let words = select(codes.xy, codes.zw, (quad & 1u) == 1u);
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
