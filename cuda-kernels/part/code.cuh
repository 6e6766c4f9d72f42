// Codes of latents, and what they stand for (engine/contract/src/kv/latent.rs).
#pragma once
#include "part/latent.cuh"

// Rules of scales.
enum Rule { PLAIN, GAIN, SYMMETRIC, MIN_MAX };

// A descriptor, which has 16 bytes, at one go.
__device__ inline ComponentDesc component_at(const uint4* components, u32 index) {
    uint4 words = components[index];
    return {words.x, words.y, __uint_as_float(words.z), __uint_as_float(words.w)};
}

// The scale of a group of latents, and its minimum.
struct Scale {
    float scale;
    float minimum;

    // What a code stands for, rounded after every step as on every other backend.
    __device__ float restore(ComponentDesc component, u32 code) const {
        float steps = __fmul_rn(component.step, __fsub_rn(float(code), component.zero));
        return __fadd_rn(__fmul_rn(scale, steps), minimum);
    }
};
