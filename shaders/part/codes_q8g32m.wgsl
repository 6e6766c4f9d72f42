// Chunks of MATRICES weights of unsigned 8-bit codes in groups of 32 with a scale and a minimum. Needs `params.scale_offset`, the vec4s from a
// row's start to its scales; `row` is the index of a row's first vec4 in `weight0`, `weight1` and so on.
//:import part/octet
//:import part/input_sums
//:let OCTETS = 2

// The octets of a chunk.
const OCTETS: u32 = 2u;
// Whether loads run ahead of products: part/one_row.
const AHEAD: bool = false;

//:repeat m = 0..MATRICES
fn chunk$(m)(row: u32, chunk: u32) -> Chunk {
    let word = weight$(m)[row + params.scale_offset + chunk / 8u][(chunk / 2u) % 4u];
    return Chunk(weight$(m)[row + chunk], unpack2x16float(word));
}
//:end

fn code_octet(codes: vec4<u32>, octet: u32) -> Octet {
    let words = select(codes.xy, codes.zw, octet == 1u);
    return Octet(vec4<f32>(unpack4xU8(words.x)), vec4<f32>(unpack4xU8(words.y)));
}

// The sum of a chunk's inputs.
fn chunk_inputs(chunk: u32) -> f32 {
    let sums = input_sums[chunk];
    return sums.x + sums.y + sums.z + sums.w;
}

// The product of a chunk from that of its codes.
fn scaled(product: f32, scale: vec2<f32>, inputs: f32) -> f32 {
    return scale.x * product + scale.y * inputs;
}
