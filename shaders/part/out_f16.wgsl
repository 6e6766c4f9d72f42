// Rows of f16.
@group(0) @binding(4) var<storage, read_write> out: array<vec2<u32>>;
//:import part/put_half
