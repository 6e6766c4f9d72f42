// How restored rows are numbered. Needs `tokens: array<u32>`, `stores: array<StoreDesc>`, and of `params` pitch, first, has_tokens and
// tokens_pitch.
//:import part/layout

// A row beyond what a sequence restores.
const ABSENT: u32 = 0xffffffffu;

// The position of a row's token, or ABSENT.
fn row_position(row: u32) -> u32 {
    let store = (params.first + row) / params.pitch;
    let index = (params.first + row) % params.pitch;
    if params.has_tokens == 0u {
        return select(ABSENT, index, index < stores[store].length);
    }
    if index >= stores[store].chosen {
        return ABSENT;
    }
    return tokens[store * params.tokens_pitch + index];
}
