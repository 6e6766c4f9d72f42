// The norm of the row of the input that is selected.
//:import part/input_norm
@group(0) @binding(7) var<storage, read> selected: array<u32>;

fn source_quad(quad: u32) -> u32 {
    return min(selected[0], params.input_rows - 1u) * params.quads + quad;
}
