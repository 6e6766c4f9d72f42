// Matrix products by a warp, on tensor cores.
#pragma once
#include "part/math.cuh"

// Four 8x8 matrices of f16 pairs, whose rows of 16 bytes lie at the addresses that lanes 0-7, 8-15, 16-23 and 24-31 give. Lane i holds of each
// matrix the elements 2 * (i % 4) and the next of row i / 4; transposed, of column i / 4.
__device__ inline void load_matrix_x4(u32 (&to)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}

__device__ inline void load_matrix_x4_trans(u32 (&to)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}

// An 8x8 matrix of f16 that lies over a warp as in `load_matrix_x4`, transposed.
__device__ inline u32 transpose_8x8(u32 pair) {
    u32 turned;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
    return turned;
}

// sum[16 x 8] += a[16 x 16] * b[16 x 8], f16 with sums in f32. With r = lane / 4 and c = 2 * (lane % 4), a lane holds of `a` the elements c and
// c + 1 of rows r and r + 8, then c + 8 and c + 9 of those rows; of `b` the rows c and c + 1, then c + 8 and c + 9, of column r; of `sum` the
// elements c and c + 1 of row r, then of row r + 8.
__device__ inline void multiply_16x8x16(float (&sum)[4], const u32 (&a)[4], u32 b_low, u32 b_high) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

// Two numbers within the range of f16, rounded to it.
__device__ inline u32 half_pair(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
