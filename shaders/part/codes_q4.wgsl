// Chunks of MATRICES weights of 4-bit codes in groups of 32 with a scale and a minimum. Needs `params.scale_offset`, the vec4s from a row's
// start to its scales; `row` is the index of a row's first vec4 in `weight0`, `weight1` and so on.
//:import part/octet
//:import part/input_sums
//:let OCTETS = 4

// The octets of a chunk.
const OCTETS: u32 = 4u;
// Whether loads run ahead of products: part/one_row.
const AHEAD: bool = false;

//:repeat m = 0..MATRICES
fn chunk$(m)(row: u32, chunk: u32) -> Chunk {
    let word = weight$(m)[row + params.scale_offset + chunk / 4u][chunk % 4u];
    return Chunk(weight$(m)[row + chunk], unpack2x16float(word));
}
//:end

// Two codes, 16 bits apart, as 1 + code / 16: their bits are put behind the leading one of an f16, which costs fewer instructions than to convert
// integers. `scaled` takes the ones out again.
fn code_pair(word: u32) -> vec2<f32> {
    return unpack2x16float((word & 0x03c003c0u) | 0x3c003c00u);
}

fn code_octet(codes: vec4<u32>, octet: u32) -> Octet {
    let word = codes[octet];
    let a = code_pair(word << 6u);
    let b = code_pair(word << 2u);
    let c = code_pair(word >> 2u);
    let d = code_pair(word >> 6u);
    return Octet(vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(a.y, b.y, c.y, d.y));
}

// The sum of a chunk's inputs.
fn chunk_inputs(chunk: u32) -> f32 {
    let sums = input_sums[2u * chunk] + input_sums[2u * chunk + 1u];
    return sums.x + sums.y + sums.z + sums.w;
}

// The product of a chunk from that of its codes.
fn scaled(product: f32, scale: vec2<f32>, inputs: f32) -> f32 {
    return 16.0 * scale.x * (product - inputs) + scale.y * inputs;
}
