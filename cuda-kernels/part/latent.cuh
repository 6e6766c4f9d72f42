// Latent blocks: how they lie in memory (engine/contract/src/kv/latent.rs).
#pragma once
#include "part/math.cuh"

// Where the tokens of a block lie in its record. `stride` is 1 without references, of which a block has `references`.
struct BlockShape {
    u32 stride;
    u32 references;

    __device__ bool is_reference(u32 lane) const { return references != 0 && lane % stride == 0; }

    // The place among the coded tokens of a token that is no reference.
    __device__ u32 coded_index(u32 lane) const { return references != 0 ? lane - lane / stride - 1 : lane; }
};

// The records of a layer's blocks, `words` words each, by the entries of the sequences that they belong to.
template <typename WORD>
struct Records {
    WORD* latents;
    const u32* entries;
    u32 words;

    // Block `index` of the sequence whose blocks begin at entry `first`.
    __device__ WORD* record(u32 first, u32 index) const { return latents + u64(entry_index(entries[first + index])) * words; }
};
