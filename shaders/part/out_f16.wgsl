// Rows of f16, which matrix units take; numbers beyond its range become its largest.
//:import part/math
@group(0) @binding(4) var<storage, read_write> out: array<vec2<u32>>;

fn put(quad: u32, value: vec4<f32>) {
    out[quad] = vec2<u32>(half_pair(value.x, value.y), half_pair(value.z, value.w));
}
