// Codes of weights as pairs of f16, which hold every code exactly.
#pragma once
#include "part/weight.cuh"

// Two sums, differences or products at once, each half of a word on its own.
__device__ inline u32 pair_subtract(u32 a, u32 b) {
    u32 result;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

__device__ inline u32 pair_multiply_add(u32 a, u32 b, u32 c) {
    u32 result;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

// The low or the high half of a word, twice.
__device__ inline u32 low_twice(u32 word) { return __byte_perm(word, 0, 0x1010); }
__device__ inline u32 high_twice(u32 word) { return __byte_perm(word, 0, 0x3232); }

__device__ inline u32 word_of(const uint4& chunk, u32 index) {
    return index == 0 ? chunk.x : index == 1 ? chunk.y : index == 2 ? chunk.z : chunk.w;
}

// 1024 as f16, and with it the code in the lowest bits of its fraction: the number 1024 + code.
constexpr u32 CODE_BASE = 0x64006400;

template <WeightType TYPE>
struct Codes {
    // Codes 4 * quad to 4 * quad + 3 of a chunk; elements themselves where there are no codes.
    static __device__ uint2 quad(const uint4& chunk, u32 quad) {
        if (TYPE == F16) return make_uint2(word_of(chunk, 2 * quad), word_of(chunk, 2 * quad + 1));
        if (TYPE == Q4) {
            // Nibbles i and i + 4 of a word lie 16 bits apart, so that one mask takes both.
            u32 word = word_of(chunk, quad / 2);
            u32 nibbles[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) nibbles[i] = (word >> (4 * i) & 0x000f000f) | CODE_BASE;
            u32 halves = quad % 2 == 0 ? 0x5410 : 0x7632;
            return make_uint2(pair_subtract(__byte_perm(nibbles[0], nibbles[1], halves), CODE_BASE),
                              pair_subtract(__byte_perm(nibbles[2], nibbles[3], halves), CODE_BASE));
        }
        // A signed code is the unsigned one with its highest bit flipped, less 128.
        constexpr bool IS_SIGNED = TYPE != Q8G32M;
        constexpr u32 BASE = IS_SIGNED ? CODE_BASE + 0x00800080 : CODE_BASE;
        u32 word = IS_SIGNED ? word_of(chunk, quad) ^ 0x80808080 : word_of(chunk, quad);
        return make_uint2(pair_subtract(__byte_perm(word, CODE_BASE >> 8, 0x4140), BASE),
                          pair_subtract(__byte_perm(word, CODE_BASE >> 8, 0x4342), BASE));
    }
};
