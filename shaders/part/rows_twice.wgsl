// Rows go, as they enter, where they are staged too. Without head norms, whose buffers would be more than every device binds.
const TWICE: bool = true;
@group(0) @binding(9) var<storage, read_write> staged: array<u32>;

fn norm_weight(is_query: bool, element: u32) -> f32 {
    return 1.0;
}

fn store_staged(place: u32, word: u32) {
    staged[place] = word;
}
