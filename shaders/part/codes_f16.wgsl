// Chunks of MATRICES weights as f16: the codes are the weights. `row` is the index of a row's first vec4 in `weight0`, `weight1` and so on.
//:import part/octet
//:let OCTETS = 1

// The octets of a chunk.
const OCTETS: u32 = 1u;
// Whether loads run ahead of products: part/one_row.
const AHEAD: bool = true;

//:repeat m = 0..MATRICES
fn chunk$(m)(row: u32, chunk: u32) -> Chunk {
    return Chunk(weight$(m)[row + chunk], vec2<f32>());
}
//:end

fn code_octet(codes: vec4<u32>, octet: u32) -> Octet {
    return Octet(
        vec4<f32>(unpack2x16float(codes.x), unpack2x16float(codes.y)),
        vec4<f32>(unpack2x16float(codes.z), unpack2x16float(codes.w)),
    );
}

// What a weight's offset multiplies: nothing here.
fn stage_sum(quad: u32, value: vec4<f32>) {}

fn chunk_inputs(chunk: u32) -> f32 {
    return 0.0;
}

// The product of a chunk from that of its codes.
fn scaled(product: f32, scale: vec2<f32>, inputs: f32) -> f32 {
    return product;
}
