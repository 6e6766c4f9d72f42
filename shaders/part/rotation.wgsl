// The rotary embedding. Needs `rope: array<f32>`, and of `params` head_dim, rope_rows and rope_pitch.
//:import part/layout

// Cosine and sine of the angle of the pair of elements `j` and `j + head_dim / 2` at a position, by the addition theorem.
fn turn_of(position: u32, j: u32) -> vec2<f32> {
    let half = params.head_dim / 2u;
    let low = (position % ROPE_LOW) * params.rope_pitch + j;
    let high = min(ROPE_LOW + position / ROPE_LOW, params.rope_rows - 1u) * params.rope_pitch + j;
    let a = vec2<f32>(rope[low], rope[low + half]);
    let b = vec2<f32>(rope[high], rope[high + half]);
    return vec2<f32>(a.x * b.x - a.y * b.y, a.y * b.x + a.x * b.y);
}

// A pair of elements turned by an angle.
fn turned_by(turn: vec2<f32>, pair: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(pair.x * turn.x - pair.y * turn.y, pair.y * turn.x + pair.x * turn.y);
}

// Elements `j` and `j + head_dim / 2` of a head, turned by the angle of their pair at a position.
fn turned(position: u32, j: u32, pair: vec2<f32>) -> vec2<f32> {
    return turned_by(turn_of(position, j), pair);
}
