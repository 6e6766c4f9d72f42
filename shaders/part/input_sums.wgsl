// Sums of the quads of a segment of the input, which the minima of weights multiply.
var<workgroup> input_sums: array<vec4<f32>, SEGMENT / 4u>;

fn stage_sum(quad: u32, value: vec4<f32>) {
    input_sums[quad / 4u][quad % 4u] = value.x + value.y + value.z + value.w;
}
