// What: out[i] = table[rows[i].token], for the tokens whose table row lies in a window; the window from 0 zeroes rows of unknown tokens.
// Contract: engine/contract/src/op/embed.rs
// Grid: x = quads of a row / 64, y = rows; one quad of elements a thread.
// Shared: none.
// Numerics: one f32 multiply-add an element.

//:variant weight = part/weight_f16 | part/weight_q4 | part/weight_q8g32 | part/weight_q8g16 | part/weight_q8g32m
//:import part/layout

struct Params {
    rows: u32,
    // vec4s of a table row, of it before the scales, and of an output row.
    weight_pitch: u32,
    scale_offset: u32,
    out_pitch: u32,
    // The window of the table, and the rows of the whole.
    first: u32,
    window: u32,
    vocabulary: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let quad = id.x;
    let row = id.y;
    if row >= min(count[0], params.rows) || quad >= params.out_pitch {
        return;
    }
    let token = rows[row].token;
    let at = row * params.out_pitch + quad;
    let local = token - params.first;
    if token >= params.first && local < params.window {
        out[at] = weight_quad(local * params.weight_pitch, quad);
    } else if token >= params.vocabulary && params.first == 0u {
        out[at] = vec4<f32>();
    }
}
