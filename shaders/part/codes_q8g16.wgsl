// Chunks of MATRICES weights of signed 8-bit codes in groups of 16 with a scale. Needs `params.scale_offset`, the vec4s from a row's start to
// its scales; `row` is the index of a row's first vec4 in `weight0`, `weight1` and so on.
//:import part/octet
//:let OCTETS = 2

// The octets of a chunk.
const OCTETS: u32 = 2u;
// Whether loads run ahead of products: part/one_row.
const AHEAD: bool = false;

//:repeat m = 0..MATRICES
fn chunk$(m)(row: u32, chunk: u32) -> Chunk {
    let scales = unpack2x16float(weight$(m)[row + params.scale_offset + chunk / 8u][(chunk / 2u) % 4u]);
    return Chunk(weight$(m)[row + chunk], vec2<f32>(select(scales.x, scales.y, (chunk & 1u) != 0u), 0.0));
}
//:end

fn code_octet(codes: vec4<u32>, octet: u32) -> Octet {
    let words = select(codes.xy, codes.zw, octet == 1u);
    return Octet(vec4<f32>(unpack4xI8(words.x)), vec4<f32>(unpack4xI8(words.y)));
}

// What a weight's offset multiplies: nothing here.
fn stage_sum(quad: u32, value: vec4<f32>) {}

fn chunk_inputs(chunk: u32) -> f32 {
    return 0.0;
}

// The product of a chunk from that of its codes.
fn scaled(product: f32, scale: vec2<f32>, inputs: f32) -> f32 {
    return scale.x * product;
}
