// The one row that weights multiply, in shared memory, laid out for chunks of weights, and the products of such chunks.
//
// Codes multiply integers: the inputs of 32 columns become numbers of 20 bits and a scale, and each such number three digits of 7 bits, so that one
// instruction multiplies four codes by four digits, and sums are exact until they are scaled. What rounding to 20 bits loses is 2^-20 of the
// largest input of the 32.
#pragma once
#include "part/reduce.cuh"
#include "part/weight.cuh"

// The largest integer that an input becomes: 16 of them times codes of 8 bits, or 32 times codes of 4 bits, are sums of 32 bits.
constexpr float LEVELS = 524288.0f;
constexpr u32 DIGITS = 3;
// Octets of inputs that a thread loads before it stages them: loads wait together.
constexpr u32 BATCH = 2;
// Inputs below are zero.
constexpr float LEAST_INPUT = 1e-30f;

// sum + the products of four codes and four signed digits.
template <bool IS_SIGNED>
__device__ inline int multiply_digits(u32 codes, u32 digits, int sum) {
    if (IS_SIGNED) asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(codes), "r"(digits));
    else asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(codes), "r"(digits));
    return sum;
}

// The digits of an input in units of 1 / inverse, the lowest first; the highest has the sign.
__device__ inline u32 digits_of(float value, float inverse) {
    // This sum is rounded to an integer, whose bits are its lowest.
    u32 level = __float_as_uint(fmaf(value, inverse, 12582912.0f));
    return (level & 0x7f) | (level << 1 & 0x7f00) | (level << 2 & 0xff0000);
}

// A word for each digit of four inputs.
__device__ inline void split_digits(u32 a, u32 b, u32 c, u32 d, u32 (&words)[DIGITS]) {
    u32 first = __byte_perm(a, b, 0x5140), second = __byte_perm(c, d, 0x5140);
    words[0] = __byte_perm(first, second, 0x5410);
    words[1] = __byte_perm(first, second, 0x7632);
    words[2] = __byte_perm(__byte_perm(a, b, 0x0062), __byte_perm(c, d, 0x0062), 0x5410);
}

__device__ inline float sum_of(float4 value) { return (value.x + value.y) + (value.z + value.w); }
__device__ inline float4 times(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }
__device__ inline float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w); }
__device__ inline float largest_of(float4 a) { return fmaxf(fmaxf(fabsf(a.x), fabsf(a.y)), fmaxf(fabsf(a.z), fabsf(a.w))); }

template <WeightType TYPE>
struct StagedRow {
    using Of = Weight<TYPE>;
    static constexpr bool IS_CODE = TYPE != F16;
    static constexpr bool IS_SIGNED = TYPE == Q8G32 || TYPE == Q8G16;
    // Octets of inputs that a chunk multiplies.
    static constexpr u32 OCTETS = Of::ELEMENTS / 8;
    // 16-byte pieces of a chunk's inputs: two quads of f32, or each digit of 16 inputs, or each digit of 16 even and 16 odd inputs.
    static constexpr u32 PIECES = TYPE == F16 ? 2 : TYPE == Q4 ? 2 * DIGITS : DIGITS;

    // Piece p of chunk c, at p * pitch + c, so that threads with neighbouring chunks meet in no bank. Then, for codes, each chunk's scale and sum.
    uint4* pieces;
    u32 pitch;

    __device__ float2* facts() const { return reinterpret_cast<float2*>(pieces + PIECES * pitch); }
    __device__ uint4* end() const { return pieces + PIECES * pitch + (IS_CODE ? pitch / 2 : 0); }

    // Stages `chunks` chunks of inputs from `input` on, times `norm` where there is one, and zeros up to a multiple of WARP. Returns the squares of what
    // the thread staged. All threads of the block call this.
    __device__ float stage(const float4* input, const float4* norm, u32 chunks) const {
        float squares = 0.0f;
        u32 octets = chunks * OCTETS, staged = round_up(chunks, WARP) * OCTETS;
        for (u32 first = threadIdx.x; first < staged; first += BATCH * THREADS) {
            float4 low[BATCH], high[BATCH];
#pragma unroll
            for (u32 i = 0; i < BATCH; i++) {
                u32 octet = first + i * THREADS;
                low[i] = high[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (octet < octets) {
                    low[i] = input[2 * octet];
                    high[i] = input[2 * octet + 1];
                }
            }
#pragma unroll
            for (u32 i = 0; i < BATCH; i++) {
                u32 octet = first + i * THREADS;
                if (octet >= staged) break;
                if (norm && octet < octets) {
                    squares += dot(low[i], low[i]) + dot(high[i], high[i]);
                    low[i] = times(low[i], norm[2 * octet]);
                    high[i] = times(high[i], norm[2 * octet + 1]);
                }
                if (IS_CODE) stage_digits(octet, low[i], high[i]);
                else stage_quads(octet, low[i], high[i]);
            }
        }
        return squares;
    }

    __device__ void stage_quads(u32 octet, float4 low, float4 high) const {
        float4* quads = reinterpret_cast<float4*>(pieces);
        quads[octet] = low;
        quads[pitch + octet] = high;
    }

    // The scale is that of the inputs of four threads, the sum that of a chunk's.
    __device__ void stage_digits(u32 octet, float4 low, float4 high) const {
        float largest = fmaxf(largest_of(low), largest_of(high)), sum = sum_of(low) + sum_of(high);
        for (u32 step = 1; step < 4; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, step));
        for (u32 step = 1; step < OCTETS; step *= 2) sum += __shfl_xor_sync(ALL, sum, step);
        float inverse = largest > LEAST_INPUT ? __fdividef(LEVELS, largest) : 0.0f;
        u32 a = digits_of(low.x, inverse), b = digits_of(low.y, inverse), c = digits_of(low.z, inverse), d = digits_of(low.w, inverse);
        u32 e = digits_of(high.x, inverse), f = digits_of(high.y, inverse), g = digits_of(high.z, inverse), h = digits_of(high.w, inverse);
        u32 first[DIGITS], second[DIGITS];
        // Of 4-bit codes, a word's even and odd ones are multiplied apart.
        if (TYPE == Q4) {
            split_digits(a, c, e, g, first);
            split_digits(b, d, f, h, second);
        } else {
            split_digits(a, b, c, d, first);
            split_digits(e, f, g, h, second);
        }
        u32 chunk = octet / OCTETS, part = octet % OCTETS;
#pragma unroll
        for (u32 i = 0; i < DIGITS; i++) {
            if (TYPE == Q4) {
                reinterpret_cast<u32*>(pieces + 2 * i * pitch + chunk)[part] = first[i];
                reinterpret_cast<u32*>(pieces + (2 * i + 1) * pitch + chunk)[part] = second[i];
            } else {
                reinterpret_cast<uint2*>(pieces + i * pitch + chunk)[part] = make_uint2(first[i], second[i]);
            }
        }
        if (part == 0) facts()[chunk] = make_float2(largest / LEVELS, sum);
    }

    // The weights' group that a chunk lies in.
    static __device__ u32 group_of(u32 chunk) { return chunk * Of::ELEMENTS / Of::GROUP; }

    // Adds to `sums` the products of a chunk of inputs and that chunk of each of N weight rows, of codes in `codes` and with words of scales in `scales`.
    template <u32 N>
    __device__ void multiply(u32 chunk, const uint4 (&codes)[N], const u32 (&scales)[N], float (&sums)[N]) const {
        if (TYPE == F16) {
            const float4* quads = reinterpret_cast<const float4*>(pieces);
            float4 low = quads[chunk], high = quads[pitch + chunk];
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                float4 first = make_float4(f32_low(codes[i].x), f32_high(codes[i].x), f32_low(codes[i].y), f32_high(codes[i].y));
                float4 second = make_float4(f32_low(codes[i].z), f32_high(codes[i].z), f32_low(codes[i].w), f32_high(codes[i].w));
                sums[i] += dot(first, low) + dot(second, high);
            }
            return;
        }
        int products[N] = {};
#pragma unroll
        for (u32 digit = DIGITS; digit-- > 0;) {
            uint4 even, odd;
            if (TYPE == Q4) {
                even = pieces[2 * digit * pitch + chunk];
                odd = pieces[(2 * digit + 1) * pitch + chunk];
            } else {
                even = pieces[digit * pitch + chunk];
            }
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                int product = products[i] << 7;
                if (TYPE == Q4) {
                    product = multiply_nibbles(codes[i].x, even.x, odd.x, product);
                    product = multiply_nibbles(codes[i].y, even.y, odd.y, product);
                    product = multiply_nibbles(codes[i].z, even.z, odd.z, product);
                    product = multiply_nibbles(codes[i].w, even.w, odd.w, product);
                } else {
                    product = multiply_digits<IS_SIGNED>(codes[i].x, even.x, product);
                    product = multiply_digits<IS_SIGNED>(codes[i].y, even.y, product);
                    product = multiply_digits<IS_SIGNED>(codes[i].z, even.z, product);
                    product = multiply_digits<IS_SIGNED>(codes[i].w, even.w, product);
                }
                products[i] = product;
            }
        }
        float2 fact = facts()[chunk];
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            float2 scale = Of::scale_in(scales[i], group_of(chunk));
            sums[i] += float(products[i]) * (scale.x * fact.x);
            if (Of::HAS_MINIMUM) sums[i] += scale.y * fact.y;
        }
    }

    // The compiler makes the nibbles of a word once for all digits.
    static __device__ int multiply_nibbles(u32 word, u32 even, u32 odd, int product) {
        product = multiply_digits<false>(word & 0x0f0f0f0f, even, product);
        return multiply_digits<false>(word >> 4 & 0x0f0f0f0f, odd, product);
    }
};
