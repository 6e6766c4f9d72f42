// The norm of the input row: its weights are multiplied in as it is staged, its root divides the products. Needs `source_quad`, and
// of `params` quads and epsilon.
@group(0) @binding(6) var<storage, read> norm: array<vec4<f32>>;

fn input_quad(quad: u32) -> Input {
    let value = a[source_quad(quad)];
    return Input(value * norm[quad], dot(value, value));
}

// All threads of the workgroup call this.
fn input_factor(squares: f32, lane: Lane) -> f32 {
    return 1.0 / sqrt(crew_add(squares, lane) / f32(4u * params.quads) + params.epsilon);
}
