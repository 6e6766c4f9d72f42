// The paged-KV layout of engine/contract/src/kv: the same words as in Rust and CUDA, which a test compares.

// Tokens of a page.
const PAGE: u32 = 32u;
// Rows of the rotary table for the low part of a position.
const ROPE_LOW: u32 = 256u;
// Bits of an entry's page or slot; the tier lies above.
const ENTRY_INDEX_BITS: u32 = 29u;

// What a row of a step is.
struct RowDesc {
    token: u32,
    sequence: u32,
    position: u32,
    slot: u32,
    view: u32,
    reserved: array<u32, 3>,
}

// Which tokens a query reads: `length` tokens from entry `first` on, the last of them at position `last`.
struct ViewDesc {
    first: u32,
    length: u32,
    last: u32,
    run: u32,
}

// Which tokens of a view are ranked: `candidates` from token `first` on, of which `keep` stay.
struct PickDesc {
    row: u32,
    first: u32,
    candidates: u32,
    keep: u32,
}

// The page or slot that an entry names.
fn entry_index(entry: u32) -> u32 {
    return entry & ((1u << ENTRY_INDEX_BITS) - 1u);
}

// How many tokens of a view a row at `position` sees.
fn view_visible(view: ViewDesc, position: u32) -> u32 {
    let hidden = max(view.last, position) - position;
    return max(view.length, hidden) - hidden;
}
