// Eight neighbouring weights.
struct Octet {
    low: vec4<f32>,
    high: vec4<f32>,
}

// One vec4 of codes, and the scale and minimum that they share.
struct Chunk {
    codes: vec4<u32>,
    scale: vec2<f32>,
}
