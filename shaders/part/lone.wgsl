// Whether neither neighbour of a row reads its view: then it shares no reads with others. Needs `rows`.
fn is_lone(row: u32, row_count: u32) -> bool {
    let view = rows[row].view;
    // No `&&`, behind which naga would not see that all of a workgroup agree.
    let before = (row == 0u) | (rows[max(row, 1u) - 1u].view != view);
    return before & ((row + 1u >= row_count) | (rows[min(row + 1u, row_count - 1u)].view != view));
}
