// Row `i` of the output is of row `select[i]` of the input.
@group(0) @binding(5) var<storage, read> selected: array<u32>;

fn source_row(i: u32) -> u32 {
    return min(selected[i], params.input_rows - 1u);
}
