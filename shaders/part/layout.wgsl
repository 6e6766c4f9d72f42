// The paged-KV layout of engine/contract/src/kv: the same words as in Rust and CUDA, which a test compares.

// Tokens of a page.
const PAGE: u32 = 32u;
// Rows of the rotary table for the low part of a position.
const ROPE_LOW: u32 = 256u;
// Bits of an entry's page or slot; the tier lies above.
const ENTRY_INDEX_BITS: u32 = 29u;
// Tokens of a latent block.
const BLOCK: u32 = 128u;
// Elements of an exact 8-bit row that share a scale.
const EXACT_GROUP: u32 = 32u;
// Latents over whose mean square a gain takes its root.
const GAIN_LATENTS: u32 = 64u;

// What a row of a step is.
struct RowDesc {
    token: u32,
    sequence: u32,
    position: u32,
    slot: u32,
    view: u32,
    staged: u32,
    reserved: array<u32, 2>,
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

// Where the tokens of a sequence lie in a layer that compresses: `sinks` in raw pages, `compressed` in blocks, the rest in raw pages again.
struct StoreDesc {
    sinks: u32,
    compressed: u32,
    length: u32,
    chosen: u32,
    pages: u32,
    blocks: u32,
    lane: u32,
    generation: u32,
}

// A block that is to be compressed: its first staged row, its place in the sequence, and the sequence's sinks and first block.
struct BlockDesc {
    source: u32,
    index: u32,
    sinks: u32,
    blocks: u32,
    reserved: array<u32, 4>,
}

// How a latent is coded: where its code lies, the distance of two codes in units of the scale, and the code of 0.
struct ComponentDesc {
    offset: u32,
    bits: u32,
    step: f32,
    zero: f32,
}

// How one token is chosen: engine/contract/src/op/sample.rs.
struct SampleDesc {
    draw: u32,
    top_k: u32,
    top_p: u32,
    min_p: u32,
    rate: f32,
    recent_first: u32,
    recent: u32,
    penalty: f32,
    relief: f32,
    reserved: array<u32, 3>,
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
