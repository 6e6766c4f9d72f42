// Rows of f32.
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;

fn put(quad: u32, value: vec4<f32>) {
    out[quad] = value;
}
