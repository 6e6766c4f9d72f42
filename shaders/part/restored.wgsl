// How restored rows are numbered. Needs `tokens: array<u32>`, `stores: array<StoreDesc>`, and of `params` pitch, first, naming and
// tokens_pitch.
//:import part/layout

// A row beyond what a sequence restores.
const ABSENT: u32 = 0xffffffffu;

// How tokens are named: all of them, by lists, or row by row as misses.
const ALL: u32 = 0u;
const MISSING: u32 = 2u;

// The store of a row's token.
fn row_store(row: u32) -> u32 {
    if params.naming == MISSING {
        return tokens[4u * (params.first + row)];
    }
    return (params.first + row) / params.pitch;
}

// The position of a row's token, or ABSENT.
fn row_position(row: u32) -> u32 {
    if params.naming == MISSING {
        return tokens[4u * (params.first + row) + 1u];
    }
    let store = row_store(row);
    let index = (params.first + row) % params.pitch;
    if params.naming == ALL {
        return select(ABSENT, index, index < stores[store].length);
    }
    if index >= stores[store].chosen {
        return ABSENT;
    }
    return tokens[store * params.tokens_pitch + index];
}
