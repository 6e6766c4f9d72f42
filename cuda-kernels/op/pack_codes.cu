// What: scales and codes of each coded token of the blocks into `latents`; its error into `errors`.
// Contract: engine/contract/src/op/pack.rs
// Grid: x = tokens / 4; a warp a token.
// Shared: each warp's codes, and the scale and minimum of each of its groups.
// Numerics: scales, codes and what they stand for are rounded as on the host; sums of squares are f64.
//:threads 128
//:variant RULE = PLAIN | GAIN | SYMMETRIC | MIN_MAX
#include "part/code.cuh"
#include "part/launch.cuh"
#include "part/reduce.cuh"

// The gain of a token whose leading latents are all zero: the smallest normal f16.
constexpr float LEAST_GAIN = 6.103515625e-5f;
// Threads of a warp that look for the extremes of a group.
constexpr u32 SEEKERS = 8;
// Latents of a thread that are loaded together.
constexpr u32 BATCH = 4;
constexpr bool HAS_GROUPS = RULE == SYMMETRIC || RULE == MIN_MAX;

__device__ inline double warp_sum(double value) {
    #pragma unroll
    for (u32 step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL, value, step);
    return value;
}

// weight * value^2, of which the square is exact, added to a sum.
__device__ inline double add_square(double sum, float weight, float value) {
    return fma(double(weight), double(value) * double(value), sum);
}

__device__ inline float halved(float value) { return f32_of(f16_of(value)); }

// The root mean square of a token's leading latents.
__device__ inline float gain_of(const float* z, u32 rank) {
    u32 leading = min(rank, GAIN_LATENTS);
    double squares = 0.0;
    for (u32 i = threadIdx.x % WARP; i < leading; i += WARP) squares += double(z[i]) * double(z[i]);
    float gain = halved(float(sqrt(warp_sum(squares) / double(leading))));
    return gain > 0.0f ? gain : LEAST_GAIN;
}

// The scale of a group with these extremes, whose first latent is `first`.
__device__ inline Scale scale_of(float least, float largest, ComponentDesc first) {
    if (RULE == MIN_MAX) return {halved(__fdiv_rn(__fsub_rn(largest, least), 15.0f)), halved(least)};
    float unit = __fmul_rn(first.zero, first.step);
    return {unit > 0.0f ? halved(__fdiv_rn(fmaxf(largest, -least), unit)) : 0.0f, 0.0f};
}

// The scales of all groups of a token. All threads of the warp call it.
__device__ inline void find_scales(const float* z, const uint4* components, u32 rank, u32 group, u32 groups, Scale* scales) {
    u32 thread = threadIdx.x % WARP;
    for (u32 first = 0; first < groups; first += WARP / SEEKERS) {
        u32 sought = first + thread / SEEKERS;
        u32 end = min((sought + 1) * group, rank);
        float least = 3.0e38f, largest = -3.0e38f;
        for (u32 i = sought * group + thread % SEEKERS; i < end; i += SEEKERS) {
            least = fminf(least, z[i]);
            largest = fmaxf(largest, z[i]);
        }
        #pragma unroll
        for (u32 step = SEEKERS / 2; step > 0; step /= 2) {
            least = fminf(least, __shfl_xor_sync(ALL, least, step));
            largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, step));
        }
        if (sought < groups && thread % SEEKERS == 0) {
            scales[sought] = scale_of(least, largest, component_at(components, sought * group));
        }
    }
}

// The code of a latent.
__device__ inline u32 code_of(float value, ComponentDesc component, Scale with) {
    float unit = __fmul_rn(RULE == MIN_MAX ? __fadd_rn(with.scale, 1.0e-6f) : with.scale, component.step);
    float steps = unit > 0.0f ? __fdiv_rn(__fsub_rn(value, with.minimum), unit) : 0.0f;
    float largest = float((1u << component.bits) - 1);
    return __float2uint_rn(fminf(fmaxf(__fadd_rn(steps, component.zero), 0.0f), largest));
}

// capacity: blocks at most. words: words of a record. group: all latents where scales have no groups. scales: halves of a token's scales.
// room: words of shared memory of a warp.
extern "C" __global__ void __launch_bounds__(THREADS) pack_codes(
    const float* z, const float* residual, const BlockDesc* blocks, const u32* count, const u32* entries, const float* metric,
    const uint4* components, const float* energy, u32* latents, double* errors,
    u32 capacity, u32 z_pitch, u32 cols, u32 rank, u32 group, u32 groups, u32 words, u32 stride, u32 references, u32 scales,
    u32 scales_at, u32 code_words, u32 codes_at, u32 room) {
    release_dependents();
    wait_for_inputs();
    u32 thread = threadIdx.x % WARP;
    u32 row = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    u32 lane = row % BLOCK;
    BlockShape shape = {stride, references};
    if (row / BLOCK >= min(*count, capacity) || shape.is_reference(lane)) return;
    extern __shared__ __align__(16) u32 shared[];
    u32* own_codes = shared + threadIdx.x / WARP * room;
    Scale* own_scales = reinterpret_cast<Scale*>(own_codes + round_up(code_words, 2));
    BlockDesc block = blocks[row / BLOCK];
    u32* record = Records<u32>{latents, entries, words}.record(block.blocks, block.index);
    u32 coded = shape.coded_index(lane);
    const float* own = z + u64(row) * z_pitch;
    for (u32 word = thread; word < code_words; word += WARP) own_codes[word] = 0;
    Scale all = {0.0f, 0.0f};
    f16* halves = reinterpret_cast<f16*>(record + scales_at) + coded * scales;
    if (RULE == GAIN) {
        all.scale = gain_of(own, rank);
        if (thread == 0) {
            halves[0] = f16_of(all.scale);
            // The last token's fills its word.
            if (coded == BLOCK - references - 1 && coded % 2 == 0) halves[1] = 0;
        }
    }
    if (HAS_GROUPS) find_scales(own, components, rank, group, groups, own_scales);
    __syncwarp();
    if (RULE == SYMMETRIC) {
        for (u32 i = thread; i < scales; i += WARP) halves[i] = i < groups ? f16_of(own_scales[i].scale) : f16(0);
    }
    if (RULE == MIN_MAX) {
        u32* pairs = reinterpret_cast<u32*>(halves);
        for (u32 i = thread; i < groups; i += WARP) pairs[i] = f16_pair(own_scales[i].scale, own_scales[i].minimum);
    }

    double kept = 0.0, lost = 0.0, whole = 0.0;
    for (u32 first = thread; first < rank; first += BATCH * WARP) {
        float values[BATCH], energies[BATCH];
        ComponentDesc found[BATCH];
        #pragma unroll
        for (u32 b = 0; b < BATCH; b++) {
            u32 i = first + b * WARP;
            if (i >= rank) continue;
            values[b] = own[i];
            energies[b] = energy[i];
            found[b] = component_at(components, i);
        }
        #pragma unroll
        for (u32 b = 0; b < BATCH; b++) {
            u32 i = first + b * WARP;
            if (i >= rank) continue;
            ComponentDesc component = found[b];
            float restored = 0.0f;
            if (component.bits > 0) {
                u32 code;
                if (RULE == PLAIN) {
                    code = f16_of(values[b]);
                    restored = f32_of(f16(code));
                } else {
                    Scale with = HAS_GROUPS ? own_scales[i / group] : all;
                    code = code_of(values[b], component, with);
                    restored = with.restore(component, code);
                }
                u32 word = component.offset / 32, bit = component.offset % 32;
                atomicOr(&own_codes[word], code << bit);
                if (bit + component.bits > 32) atomicOr(&own_codes[word + 1], code >> (32 - bit));
            }
            kept = add_square(kept, energies[b], values[b]);
            lost = add_square(lost, energies[b], values[b] - restored);
        }
    }
    // The same threads take the same columns, so that a residual that is its own latents leaves nothing out.
    const float* left = residual + u64(row) * cols;
    #pragma unroll 4
    for (u32 column = thread; column < cols; column += WARP) whole = add_square(whole, metric[column], left[column]);
    double error = warp_sum(whole) - warp_sum(kept) + warp_sum(lost);
    if (thread == 0) errors[row] = error;
    __syncwarp();
    u32* to = record + codes_at + coded * code_words;
    for (u32 word = thread; word < code_words; word += WARP) to[word] = own_codes[word];
}
