// Where the tokens of a view lie.
#pragma once
#include "part/layout.cuh"

// The slot of a token of a view, whose entries name one slot or a page.
__device__ inline u32 view_slot(ViewDesc view, const u32* entries, u32 token) {
    if (view.run == 1) return entry_index(entries[view.first + token]);
    return entry_index(entries[view.first + token / PAGE]) * PAGE + token % PAGE;
}
