// The paged-KV layout of engine/contract/src/kv: the same words as in Rust and WGSL, which a test compares.
#pragma once

// NVRTC has no <cstdint>.
typedef unsigned int u32;

// Tokens of a page.
constexpr u32 PAGE = 32;
// Rows of the rotary table for the low part of a position.
constexpr u32 ROPE_LOW = 256;
// Bits of an entry's page or slot; the tier lies above.
constexpr u32 ENTRY_INDEX_BITS = 29;

// What a row of a step is.
struct RowDesc {
    u32 token;
    u32 sequence;
    u32 position;
    u32 slot;
    u32 view;
    u32 reserved[3];
};

// Which tokens a query reads: `length` tokens from entry `first` on, the last of them at position `last`.
struct ViewDesc {
    u32 first;
    u32 length;
    u32 last;
    u32 run;
};

// Which tokens of a view are ranked: `candidates` from token `first` on, of which `keep` stay.
struct PickDesc {
    u32 row;
    u32 first;
    u32 candidates;
    u32 keep;
};

static_assert(sizeof(RowDesc) == 32, "eight words");
static_assert(sizeof(ViewDesc) == 16, "four words");
static_assert(sizeof(PickDesc) == 16, "four words");

// The page or slot that an entry names.
__device__ inline u32 entry_index(u32 entry) {
    return entry & ((1u << ENTRY_INDEX_BITS) - 1u);
}

// How many tokens of a view a row at `position` sees.
__device__ inline u32 view_visible(ViewDesc view, u32 position) {
    u32 hidden = view.last > position ? view.last - position : 0;
    return view.length > hidden ? view.length - hidden : 0;
}
