// The latents of a token, by the macro RULE of the kernel that includes this.
#pragma once
#include "part/code.cuh"

// What a token's latents are read from.
struct Coded {
    const uint4* components;
    const u32* codes;
    const f16* scales;
    // Latents, and those that share a scale.
    u32 rank;
    u32 group;

    __device__ float latent(u32 i) const {
        if (i >= rank) return 0.0f;
        ComponentDesc component = component_at(components, i);
        if (component.bits == 0) return 0.0f;
        u32 word = component.offset / 32, bit = component.offset % 32;
        u32 code = codes[word] >> bit;
        if (bit + component.bits > 32) code |= codes[word + 1] << (32 - bit);
        code &= (1u << component.bits) - 1;
        if (RULE == PLAIN) return f32_of(f16(code));
        if (RULE == GAIN) return Scale{f32_of(scales[0]), 0.0f}.restore(component, code);
        u32 number = i / group;
        if (RULE == SYMMETRIC) return Scale{f32_of(scales[number]), 0.0f}.restore(component, code);
        return Scale{f32_of(scales[2 * number]), f32_of(scales[2 * number + 1])}.restore(component, code);
    }

    // Latents 4 * quad to 4 * quad + 3; zeros beyond the last.
    __device__ float4 quad(u32 quad) const {
        return make_float4(latent(4 * quad), latent(4 * quad + 1), latent(4 * quad + 2), latent(4 * quad + 3));
    }
};
