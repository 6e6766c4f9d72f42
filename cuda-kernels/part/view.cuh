// Where the tokens of a view lie.
#pragma once
#include "part/layout.cuh"

// The slots of a view's tokens.
struct ViewSlots {
    const u32* entries;
    // An entry's tokens, as a power of two.
    u32 run_bits;

    __device__ ViewSlots(ViewDesc view, const u32* all) : entries(all + view.first), run_bits(__ffs(view.run) - 1) {}

    __device__ u32 operator[](u32 token) const {
        return entry_index(entries[token >> run_bits]) << run_bits | (token & ((1u << run_bits) - 1u));
    }
};
