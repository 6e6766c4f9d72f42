// Where an element of a matrix product goes. Needs `y`, `bias`, and of `params` outputs, first, y_pitch, add and has_bias.

// Stores an output of a row, with its bias, or adds it to what is there.
fn store(row: u32, output: u32, sum: f32) {
    if output >= params.outputs {
        return;
    }
    var value = sum;
    if params.has_bias != 0u {
        value += bias[params.first + output];
    }
    let at = row * params.y_pitch + params.first + output;
    if params.add != 0u {
        value += y[at];
    }
    y[at] = value;
}
