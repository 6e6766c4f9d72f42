// Numbers: f16 as 16 bits, conversions, and what several kernels compute. NVRTC needs no header for any of it.
#pragma once
#include "part/layout.cuh"

typedef unsigned short f16;
typedef unsigned long long u64;
typedef signed char i8;

// A mask: finite, so that differences of masks are numbers.
constexpr float LEAST = -1e30f;
// The largest finite f16.
constexpr float HALF_MAX = 65504.0f;

__device__ inline float f32_of(f16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// The low and the high half of a word, and a word of both.
__device__ inline float f32_low(u32 pair) { return f32_of(f16(pair & 0xffffu)); }
__device__ inline float f32_high(u32 pair) { return f32_of(f16(pair >> 16)); }

// Rounded to f16, ties to even; beyond its range the largest finite f16 of its sign.
__device__ inline f16 f16_of(float value) {
    f16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(fminf(fmaxf(value, -HALF_MAX), HALF_MAX)));
    return bits;
}

__device__ inline u32 f16_pair(float low, float high) {
    return u32(f16_of(low)) | u32(f16_of(high)) << 16;
}

__device__ inline u32 ceil_div(u32 value, u32 by) { return (value + by - 1) / by; }
__device__ inline u32 round_up(u32 value, u32 to) { return ceil_div(value, to) * to; }
