// Rows of codes as attention reads them: rotated within a group by integer products, or as f16.
#pragma once
#include "part/reduce.cuh"

// A float whose bits, as a number, grow by one where it grows by one.
constexpr float MAGIC = 12582912.0f;
constexpr int MAGIC_BITS = 0x4b400000;

// Copies BYTES, 4 or 8, as `copy_16` does.
template <u32 BYTES>
__device__ inline void copy_few(u32 to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(BYTES) : "memory");
}

// sum[16 x 8] += a[16 x 32] * b[32 x 8], bytes without and with a sign. With r = lane / 4 and c = 4 * (lane % 4), a lane holds of `a` the elements c to
// c + 3 of rows r and r + 8, then c + 16 and on of those rows; of `b` the rows c to c + 3, then c + 16 and on, of column r; of `sum` as
// `multiply_16x8x16`.
__device__ inline void multiply_codes(int (&sum)[4], const u32 (&a)[4], u32 b_low, u32 b_high) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

// A lane takes eight neighbouring codes of a group of 32 in two words of four bytes each, in any order, as long as the rotation has it too: the element
// of the group that is byte `byte` of word `word` of the lane that is number `own` of four.
template <u32 WIDTH>
__device__ inline u32 code_element(u32 own, u32 word, u32 byte) {
    return 8 * own + (WIDTH == 8 ? 4 * word + byte : 2 * byte + word);
}

// Those words of group `group` of a row whose chunk `c` lies at `place(c)`.
template <u32 WIDTH, typename Place>
__device__ inline void key_codes(const unsigned char* row, u32 own, u32 group, Place place, u32& first, u32& second) {
    if (WIDTH == 8) {
        uint2 words = *reinterpret_cast<const uint2*>(row + 16 * place(2 * group + own / 2) + 8 * (own % 2));
        first = words.x;
        second = words.y;
    } else {
        u32 word = *reinterpret_cast<const u32*>(row + 16 * place(group) + 4 * own);
        first = word & 0x0f0f0f0fu;
        second = word >> 4 & 0x0f0f0f0fu;
    }
}

// Part `own` of eight of a row, COUNT words.
template <u32 COUNT, typename Place>
__device__ inline void value_words(const unsigned char* row, u32 own, Place place, u32 (&words)[COUNT]) {
    u32 at = 4 * COUNT * own;
    const unsigned char* from = row + 16 * place(at / 16) + at % 16;
    if (COUNT == 4) {
        uint4 all = *reinterpret_cast<const uint4*>(from);
        words[0] = all.x, words[1 % COUNT] = all.y, words[2 % COUNT] = all.z, words[3 % COUNT] = all.w;
    } else if (COUNT == 2) {
        uint2 all = *reinterpret_cast<const uint2*>(from);
        words[0] = all.x, words[1 % COUNT] = all.y;
    } else {
        words[0] = *reinterpret_cast<const u32*>(from);
    }
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

// The values of the codes of a word of each of two tokens, as pairs of f16: those of the first token times the low half of `sizes`, of the second times
// the high half. Codes stand for a half more than their distance from the middle, which is where the one rounding is.
template <u32 WIDTH>
__device__ inline void code_halves(u32 first, u32 second, u32 sizes, u32 (&halves)[32 / WIDTH]) {
    // f16 from 1024 on have whole numbers in their lowest bits.
    constexpr u32 WHOLE = 0x64006400u, HALF = 0x38003800u;
    u32 half_sizes = half_fma(sizes, HALF, 0x80008000u);
    if (WIDTH == 8) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            u32 both = __byte_perm(first, second, i ? 0x7362 : 0x5140);
            halves[2 * i] = __byte_perm(both, WHOLE, 0x7170);
            halves[2 * i + 1] = __byte_perm(both, WHOLE, 0x7372);
        }
#pragma unroll
        // 1024 + 128
        for (u32 i = 0; i < 32 / WIDTH; i++) halves[i] = half_fma(half_add(halves[i], 0xe480e480u), sizes, half_sizes);
    } else {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            u32 both = __byte_perm(first, second, i ? 0x7632 : 0x5410);
#pragma unroll
            for (u32 j = 0; j < 2; j++) {
                u32 at = (4 * i + 2 * j) % (32 / WIDTH);
                u32 pair = both >> (8 * j);
                u32 low = pair & 0x000f000fu | WHOLE, high = pair & 0x00f000f0u | WHOLE;
                // 1024 + 8; a sixteenth of 1024 and 16 times the code, less 64 + 8.
                halves[at] = half_add(low, 0xe408e408u);
                halves[(at + 1) % (32 / WIDTH)] = half_fma(high, 0x2c002c00u, 0xd480d480u);
            }
        }
#pragma unroll
        for (u32 i = 0; i < 32 / WIDTH; i++) halves[i] = half_fma(halves[i], sizes, half_sizes);
    }
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
