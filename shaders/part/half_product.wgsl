// A matrix product of f16, as kernels for matrix units are told of it. Its weights bind themselves.
struct Params {
    rows: u32,
    // Outputs of this dispatch, and the place of the first in y and bias.
    outputs: u32,
    first: u32,
    // Columns / those of a step.
    steps: u32,
    // vec4s of a weight row, and of it before the scales.
    weight_pitch: u32,
    scale_offset: u32,
    // vec4s of a row of a, of which there are whole tiles for few rows; and elements of a row of y.
    a_pitch: u32,
    y_pitch: u32,
    // Whether y is added to, and whether there is a bias.
    add: u32,
    has_bias: u32,
    // Whether rows 8 to 15 of a are the smaller parts of rows 0 to 7, SMALLER times as large, which are all there are.
    parts: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
