// The norm of the first row of the input.
//:import part/input_norm

fn source_quad(quad: u32) -> u32 {
    return quad;
}
