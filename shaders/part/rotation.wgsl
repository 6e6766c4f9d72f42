// The rotary embedding. Needs `rope: array<f32>`, and of `params` head_dim, rope_rows and rope_pitch.
//:import part/layout

// Elements `j` and `j + head_dim / 2` of a head, turned by the angle of their pair at a position: cosine and sine by the addition theorem.
fn turned(position: u32, j: u32, pair: vec2<f32>) -> vec2<f32> {
    let half = params.head_dim / 2u;
    let low = (position % ROPE_LOW) * params.rope_pitch + j;
    let high = min(ROPE_LOW + position / ROPE_LOW, params.rope_rows - 1u) * params.rope_pitch + j;
    let a = vec2<f32>(rope[low], rope[low + half]);
    let b = vec2<f32>(rope[high], rope[high + half]);
    let turn = vec2<f32>(a.x * b.x - a.y * b.y, a.y * b.x + a.x * b.y);
    return vec2<f32>(pair.x * turn.x - pair.y * turn.y, pair.y * turn.x + pair.x * turn.y);
}
