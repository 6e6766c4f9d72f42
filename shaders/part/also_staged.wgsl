// Rows as they enter go where they are staged too.
const ALSO: bool = true;
@group(0) @binding(11) var<storage, read_write> also: array<u32>;

fn store_also(place: u32, word: u32) {
    also[place] = word;
}
