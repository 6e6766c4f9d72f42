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
// Tokens of a latent block.
constexpr u32 BLOCK = 128;
// Elements of an exact 8-bit row that share a scale.
constexpr u32 EXACT_GROUP = 32;
// Latents over whose mean square a gain takes its root.
constexpr u32 GAIN_LATENTS = 64;

// What a row of a step is.
struct RowDesc {
    u32 token;
    u32 sequence;
    u32 position;
    u32 slot;
    u32 view;
    u32 staged;
    u32 reserved[2];
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

// Where the tokens of a sequence lie in a layer that compresses: `sinks` in raw pages, `compressed` in blocks, the rest in raw pages again.
struct StoreDesc {
    u32 sinks;
    u32 compressed;
    u32 length;
    u32 chosen;
    u32 pages;
    u32 blocks;
    u32 lane;
    u32 generation;
};

// A block that is to be compressed: its first staged row, its place in the sequence, and the sequence's sinks and first block.
struct BlockDesc {
    u32 source;
    u32 index;
    u32 sinks;
    u32 blocks;
    u32 reserved[4];
};

// How a latent is coded: where its code lies, the distance of two codes in units of the scale, and the code of 0.
struct ComponentDesc {
    u32 offset;
    u32 bits;
    float step;
    float zero;
};

// How one token is chosen: engine/contract/src/op/sample.rs.
struct SampleDesc {
    u32 draw;
    u32 top_k;
    u32 top_p;
    u32 min_p;
    float rate;
    u32 recent_first;
    u32 recent;
    float penalty;
    float relief;
    u32 reserved[3];
};

static_assert(sizeof(RowDesc) == 32, "eight words");
static_assert(sizeof(ViewDesc) == 16, "four words");
static_assert(sizeof(PickDesc) == 16, "four words");
static_assert(sizeof(StoreDesc) == 32, "eight words");
static_assert(sizeof(BlockDesc) == 32, "eight words");
static_assert(sizeof(ComponentDesc) == 16, "four words");
static_assert(sizeof(SampleDesc) == 48, "twelve words");

// The page or slot that an entry names.
__device__ inline u32 entry_index(u32 entry) {
    return entry & ((1u << ENTRY_INDEX_BITS) - 1u);
}

// How many tokens of a view a row at `position` sees.
__device__ inline u32 view_visible(ViewDesc view, u32 position) {
    u32 hidden = view.last > position ? view.last - position : 0;
    return view.length > hidden ? view.length - hidden : 0;
}
