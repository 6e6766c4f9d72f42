// What the kernels of `sample` share: tokens in the order of falling logits, logits as weights, rounded alike everywhere, and penalties. A chunk is
// what a block takes of a row.
#pragma once
#include "part/scan.cuh"

// Tokens of a chunk.
constexpr u32 CHUNK = 2048;
// Bins of a row's histogram, an eighth of a logit each, by the distance from the largest.
constexpr u32 BINS = 256;
// Magnitude beyond which logits count as this, 2^100, and below which they are zero.
constexpr u32 LARGEST_BITS = 0x71800000u;
constexpr u32 LEAST_BITS = 0x00800000u;
constexpr u32 INFINITY_BITS = 0x7f800000u;
// log2(e): the rate at a temperature of 1.
constexpr float UNIT_RATE = 1.44269504f;
// The place of no token in the order of falling logits; with it as the last one, all stay.
constexpr u64 NOWHERE = ~u64(0);
// What is given where no logit is a number.
constexpr u32 NO_CHOICE = 0xffffffffu;
// What filters nothing.
constexpr u32 KEEP_ALL = 0xffffffffu;

static_assert(THREADS == BINS, "a thread for each bin");

// What is known of a row that draws: of each bin the weights at a temperature of 1 together, and how many tokens it holds; and how many tokens are
// listed.
struct RowHead {
    u64 weights[BINS];
    u32 tokens[BINS];
    u32 listed;
    u32 reserved[3];
};

static_assert(sizeof(RowHead) == 3088, "as the launch says");

// A number in the order of logits; 0 is none.
__device__ inline u32 key_of(u32 bits) {
    u32 magnitude = bits & 0x7fffffffu;
    u32 kept = magnitude < LEAST_BITS ? 0 : min(magnitude, LARGEST_BITS);
    bool negative = bits >> 31 != 0 && kept != 0;
    u32 key = negative ? 0x7fffffffu - kept : 0x80000000u + kept;
    return magnitude > INFINITY_BITS ? 0 : key;
}

// The logit that has a key.
__device__ inline float value_of(u32 key) {
    return __uint_as_float(key >= 0x80000000u ? key - 0x80000000u : ~key);
}

// The place of a token with a key in the order of falling logits, of equal ones the lower token first.
__device__ inline u64 order_of(u32 key, u32 token) { return key == 0 ? NOWHERE : u64(~key) << 32 | token; }

// The logit and the token at a place.
__device__ inline float logit_at(u64 order) { return value_of(~u32(order >> 32)); }
__device__ inline u32 token_at(u64 order) { return u32(order); }

// 2^(31 - (largest - logit) rate), cut to an integer. Every operation rounds once: none may be fused.
__device__ inline u32 weight_of(float rate, float largest, float logit) {
    // Differences beyond 2^40 weigh nothing at any rate, and the product stays finite.
    float distance = fminf(__fsub_rn(largest, logit), 1099511627776.0f);
    float exponent = fminf(__fmul_rn(distance, rate), 64.0f);
    u32 whole = __float2uint_rz(exponent);
    float part = __fsub_rn(exponent, __uint2float_rn(whole));
    float power = 1.1491995e-4f;
    power = __fadd_rn(__fmul_rn(power, part), -1.2916368e-3f);
    power = __fadd_rn(__fmul_rn(power, part), 9.597035e-3f);
    power = __fadd_rn(__fmul_rn(power, part), -5.549923e-2f);
    power = __fadd_rn(__fmul_rn(power, part), 2.4022609e-1f);
    power = __fadd_rn(__fmul_rn(power, part), -6.9314718e-1f);
    power = __fadd_rn(__fmul_rn(power, part), 1.0f);
    return whole > 31 ? 0 : __float2uint_rz(__fmul_rn(power, 2147483648.0f)) >> whole;
}

// The bin of a logit.
__device__ inline u32 bin_of(float largest, float logit) {
    return __float2uint_rz(fminf(__fmul_rn(__fsub_rn(largest, logit), 8.0f), float(BINS - 1)));
}

// total * part * 2^-32, cut.
__device__ inline u64 share_of(u64 total, u32 part) { return __umul64hi(total, u64(part) << 32); }

// Whether some of a row's tokens may have to be left out by rank or by what lies before them.
__device__ inline bool ranks(const SampleDesc& desc) { return desc.top_k != 0 || desc.top_p != KEEP_ALL; }

// A row's logits, as bits, and how its token is chosen.
struct SampleRow {
    const u32* logits;
    u32 vocabulary;
    SampleDesc desc;
};

// A bit for each token of a chunk that is recent.
struct Marks {
    u32 words[CHUNK / 32];

    // Finds the recent tokens of the chunk that begins with token `first`; all threads take part.
    __device__ void set(const SampleDesc& desc, const u32* recent, u32 recents, u32 first) {
        __syncthreads();
        if (threadIdx.x < CHUNK / 32) words[threadIdx.x] = 0;
        __syncthreads();
        u32 begin = min(desc.recent_first, recents);
        u32 end = begin + min(desc.recent, recents - begin);
        for (u32 i = begin + threadIdx.x; i < end; i += THREADS) {
            u32 token = recent[i];
            if (token >= first && token - first < CHUNK) atomicOr(&words[(token - first) / 32], 1u << (token % 32));
        }
        __syncthreads();
    }

    __device__ bool has(u32 at) const { return (words[at / 32] >> (at % 32) & 1) != 0; }
};

// The place in the order of token `at` of the chunk that begins with token `first`, whose marks these are.
__device__ inline u64 order_in_chunk(const SampleRow& row, const Marks& marks, u32 first, u32 at) {
    u32 token = first + at;
    if (token >= row.vocabulary) return NOWHERE;
    u32 key = key_of(row.logits[token]);
    if (key != 0 && marks.has(at)) {
        float logit = value_of(key);
        key = key_of(__float_as_uint(__fmul_rn(logit, logit > 0.0f ? row.desc.relief : row.desc.penalty)));
    }
    return order_of(key, token);
}

// The first place of those that the threads have; all take part. `shared` has a place for each warp.
__device__ inline u64 first_of_all(u64 order, u64* shared) {
#pragma unroll
    for (u32 step = WARP / 2; step > 0; step /= 2) order = min(order, __shfl_xor_sync(ALL, order, step));
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = order;
    __syncthreads();
    order = shared[0];
#pragma unroll
    for (u32 warp = 1; warp < THREADS / WARP; warp++) order = min(order, shared[warp]);
    return order;
}

// A row's first place, of the firsts of its chunks, of which there are no more than threads.
__device__ inline u64 first_of_row(const u64* firsts, u32 chunks, u64* shared) {
    return first_of_all(threadIdx.x < chunks ? firsts[threadIdx.x] : NOWHERE, shared);
}
