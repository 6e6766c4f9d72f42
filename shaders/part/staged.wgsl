// Staged rows. Needs `staged: array<vec2<u32>>` and `params.cols`.

// Elements 4 quad to 4 quad + 3 of a row.
fn staged_quad(row: u32, quad: u32) -> vec4<f32> {
    let words = staged[row * (params.cols / 4u) + quad];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
