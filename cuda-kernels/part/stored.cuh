// Rows of codes as attention reads them: rotated within a group by integer products, or as f16.
#pragma once
#include "part/reduce.cuh"

// A float whose bits, as a number, grow by one where it grows by one.
constexpr float MAGIC = 12582912.0f;
constexpr int MAGIC_BITS = 0x4b400000;

// Two f16 from 1024 on, which have whole numbers in their lowest bits.
constexpr u32 HALF_WHOLE = 0x64006400u;

// Copies BYTES, 4 or 8, as `copy_16` does.
template <u32 BYTES>
__device__ inline void copy_few(u32 to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(BYTES) : "memory");
}

// sum[16 x 8] = from + a[16 x 32] * b[32 x 8], bytes without and with a sign. With r = lane / 4 and c = 4 * (lane % 4), a lane holds of `a` the elements
// c to c + 3 of rows r and r + 8, then c + 16 and on of those rows; of `b` the rows c to c + 3, then c + 16 and on, of column r; of `sum` as
// `multiply_16x8x16`.
__device__ inline void multiply_codes(int (&sum)[4], const u32 (&a)[4], u32 b_low, u32 b_high, const int (&from)[4]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=r"(sum[0]), "=r"(sum[1]), "=r"(sum[2]), "=r"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high), "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3]));
}

// A lane takes eight codes of a group of 32 in two words of four bytes each, in any order, as long as the rotation has it too. Of 8 bits those are words as
// they are stored, of 4 bits the low and the high halves of the bytes of one. This is the element of the group that is byte `byte` of word `word` of the lane
// that is number `own` of four.
template <u32 WIDTH>
__device__ inline u32 code_element(u32 own, u32 word, u32 byte) {
    return WIDTH == 8 ? 16 * word + 4 * own + byte : 8 * own + 2 * byte + word;
}

__device__ inline u32 half_add(u32 a, u32 b) {
    u32 sum;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
}

__device__ inline u32 half_fma(u32 a, u32 b, u32 c) {
    u32 sum;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}

// The values of codes as pairs of f16 of two tokens, whose bytes are the low and the high half of `both`: those of the first times the low half of
// `sizes`, of the second times the high half; `whole` is HALF_WHOLE. Codes stand for a half more than their distance from the middle, which is where the one rounding is.
template <u32 WIDTH>
__device__ inline void code_halves(u32 both, u32 sizes, u32 whole, u32 (&halves)[16 / WIDTH]) {
    // Times a half, plus minus zero.
    u32 half_sizes = half_fma(sizes, 0x38003800u, 0x80008000u);
    if (WIDTH == 8) {
        // Less 1024 + 128.
        halves[0] = half_add(both & 0x00ff00ffu | whole, 0xe480e480u);
        halves[1] = half_add(__byte_perm(both, whole, 0x7371), 0xe480e480u);
    } else {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            u32 pair = both >> (8 * i);
            // Less 1024 + 8; a sixteenth of 1024 and 16 times the code, less 64 + 8.
            halves[2 * i % (16 / WIDTH)] = half_add(pair & 0x000f000fu | whole, 0xe408e408u);
            halves[(2 * i + 1) % (16 / WIDTH)] = half_fma(pair & 0x00f000f0u | whole, 0x2c002c00u, 0xd480d480u);
        }
    }
#pragma unroll
    for (u32 i = 0; i < 16 / WIDTH; i++) halves[i] = half_fma(halves[i], sizes, half_sizes);
}

// Multiplies by a Hadamard matrix, whose elements are ones and minus ones, a vector of which each lane has every 32nd element.
template <u32 GROUPS>
__device__ inline void rotate_back(float (&value)[GROUPS], u32 lane) {
#pragma unroll
    for (u32 step = 1; step < WARP; step *= 2) {
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) {
            float other = __shfl_xor_sync(ALL, value[g], step);
            value[g] = lane & step ? other - value[g] : other + value[g];
        }
    }
#pragma unroll
    for (u32 half = 1; half < GROUPS; half *= 2) {
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) {
            if (g & half) continue;
            float a = value[g], b = value[g + half];
            value[g] = a + b;
            value[g + half] = a - b;
        }
    }
}
