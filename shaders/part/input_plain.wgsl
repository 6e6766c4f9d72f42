// The input row as it is.
fn input_quad(quad: u32) -> Input {
    return Input(a[quad], 0.0);
}

fn input_factor(squares: f32, lane: Lane) -> f32 {
    return 1.0;
}
