// What: y[i, o] = weight[o] . a[i] + bias[o], or added to y, for ROWS rows i at a time, which read the weights once; for up to three weights.
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: x = groups of OUTPUTS outputs a warp, of all weights in turn, each with every ROWS rows; a warp's lanes share the columns.
// Shared: two segments of 1024 columns of ROWS input rows, 66 KiB for 8 rows.
// Numerics: weights are expanded to f32; sums in f32, by lane and then over lanes.
//:threads 256
//:variant WEIGHT = F16 | Q4 | Q8G32 | Q8G16 | Q8G32M
//:variant ROWS = 2 | 4 | 8
//:variant OUTPUTS = 2 | 4
#include "part/codes.cuh"
#include "part/launch.cuh"
#include "part/product.cuh"
#include "part/reduce.cuh"
#include "part/stage.cuh"

constexpr u32 WARPS = THREADS / WARP;
// A thread brings in a quad of each row of a segment.
constexpr u32 SEGMENT_QUADS = THREADS;
// Quads that belong to a chunk of weights, and chunks of a segment.
constexpr u32 QUADS = Weight<WEIGHT>::ELEMENTS / 4;
constexpr u32 CHUNKS = SEGMENT_QUADS / QUADS;
// In shared memory the chunks' first quads come first, then their second ones: lanes, which have a chunk each, read side by side. The gap
// spreads neighbouring quads over the banks.
constexpr u32 GAP = 8 / QUADS;
constexpr u32 QUAD_PITCH = CHUNKS + GAP;
constexpr u32 ROW_PITCH = QUADS * QUAD_PITCH;
// Chunks that a lane loads at once of each output, ahead of their use, and such loads of a segment. Those of codes are more work.
constexpr u32 UNROLL = WEIGHT == F16 ? 2 : 1;
constexpr u32 BATCHES = CHUNKS / WARP / UNROLL;

// A chunk of weights as it was loaded, with the word of its scale.
struct Fetched {
    uint4 codes;
    u32 scale;
};

__device__ inline Fetched fetch(WeightRow row, u32 chunk, u32 chunks) {
    Fetched fetched = {make_uint4(0, 0, 0, 0), 0};
    if (chunk >= chunks) return fetched;
    fetched.codes = load_once(row.chunks + chunk);
    constexpr u32 GROUP_CHUNKS = Weight<WEIGHT>::GROUP / Weight<WEIGHT>::ELEMENTS;
    if (WEIGHT != F16) fetched.scale = row.scale_word(Weight<WEIGHT>::HAS_MINIMUM ? chunk / GROUP_CHUNKS : chunk / GROUP_CHUNKS / 2);
    return fetched;
}

// The scale of a chunk and its minimum.
__device__ inline float2 scale_of(u32 word, u32 chunk) {
    if (Weight<WEIGHT>::HAS_MINIMUM) return make_float2(f32_low(word), f32_high(word));
    u32 group = chunk * Weight<WEIGHT>::ELEMENTS / Weight<WEIGHT>::GROUP;
    return make_float2(group % 2 == 0 ? f32_low(word) : f32_high(word), 0.0f);
}

// A quad of a chunk's weights.
__device__ inline float4 expand(const Fetched& fetched, float2 scale, u32 quad) {
    uint2 pairs = Codes<WEIGHT>::quad(fetched.codes, quad);
    float4 value = make_float4(f32_low(pairs.x), f32_high(pairs.x), f32_low(pairs.y), f32_high(pairs.y));
    if (WEIGHT == F16) return value;
    return make_float4(value.x * scale.x + scale.y, value.y * scale.x + scale.y, value.z * scale.x + scale.y, value.w * scale.x + scale.y);
}

// Of a sum of each lane for each of VALUES values, the whole sum of value lane % VALUES.
template <u32 VALUES>
__device__ inline float total_of(const float (&sum)[VALUES]) {
    if constexpr (VALUES == 1) {
        return sum[0];
    } else {
        // Lanes that differ in this bit share the work: each keeps the half of the values that its bit names.
        constexpr u32 HALF = VALUES / 2;
        bool upper = (threadIdx.x & HALF) != 0;
        float kept[HALF];
#pragma unroll
        for (u32 i = 0; i < HALF; i++) {
            float given = upper ? sum[i] : sum[i + HALF];
            kept[i] = (upper ? sum[i + HALF] : sum[i]) + __shfl_xor_sync(ALL, given, HALF);
        }
        return total_of(kept);
    }
}

// chunks: chunks of a weight row, before its scales. weight_pitch, scale_offset: chunks of a whole weight row, and of it before the scales.
// a_pitch: quads of a row of a.
extern "C" __global__ void __launch_bounds__(THREADS, 2) matmul_row(
    const uint4* weight0, const uint4* weight1, const uint4* weight2, const float4* a,
    const float* bias0, const float* bias1, const float* bias2, const u32* count, float* y0, float* y1, float* y2,
    u32 outputs0, u32 outputs1, u32 outputs2, u32 capacity, u32 weight_pitch, u32 scale_offset, u32 a_pitch, u32 add) {
    extern __shared__ float4 inputs[];
    u32 row_groups = ceil_div(capacity, ROWS);
    u32 first_row = blockIdx.x % row_groups * ROWS;
    u32 group = blockIdx.x / row_groups;
    Product product = product_of(group, WARPS * OUTPUTS, {weight0, bias0, y0, outputs0}, {weight1, bias1, y1, outputs1}, {weight2, bias2, y2, outputs2});
    u32 lane = threadIdx.x % WARP;
    u32 output = (group * WARPS + threadIdx.x / WARP) * OUTPUTS;
    u32 chunks = a_pitch / QUADS;
    // Outputs beyond the last repeat it, and are not stored.
    u32 place[OUTPUTS];
#pragma unroll
    for (u32 o = 0; o < OUTPUTS; o++) place[o] = min(output + o, product.outputs - 1) * weight_pitch;
    auto fetch_of = [&](u32 o, u32 chunk) { return fetch({product.weight + place[o], scale_offset}, chunk, chunks); };
    // Weights are there from the start, unlike inputs.
    Fetched next[UNROLL][OUTPUTS];
#pragma unroll
    for (u32 u = 0; u < UNROLL; u++) {
#pragma unroll
        for (u32 o = 0; o < OUTPUTS; o++) next[u][o] = fetch_of(o, u * WARP + lane);
    }
    wait_for_inputs();
    release_dependents();
    u32 rows = min(*count, capacity);
    if (first_row >= rows) return;

    u32 own = shared_address(inputs + threadIdx.x % QUADS * QUAD_PITCH + threadIdx.x / QUADS);
    auto stage = [&](u32 segment) {
        u32 quad = segment * SEGMENT_QUADS + threadIdx.x;
        u32 to = own + segment % 2 * (ROWS * ROW_PITCH * 16);
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            bool present = quad < a_pitch && first_row + r < rows;
            copy_16(to + r * ROW_PITCH * 16, a + (present ? u64(first_row + r) * a_pitch + quad : 0), present);
        }
    };

    // Value r * OUTPUTS + o belongs to output o of row r.
    float sum[ROWS * OUTPUTS] = {};
    u32 segments = ceil_div(a_pitch, SEGMENT_QUADS);
    stage(0);
    copies_commit();
    for (u32 segment = 0; segment < segments; segment++) {
        if (segment + 1 < segments) stage(segment + 1);
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        const float4* input = inputs + segment % 2 * (ROWS * ROW_PITCH) + lane;
#pragma unroll 1
        for (u32 batch = 0; batch < BATCHES; batch++) {
            u32 first_chunk = segment * CHUNKS + batch * UNROLL * WARP;
            if (first_chunk >= chunks) break;
            Fetched fetched[UNROLL][OUTPUTS];
#pragma unroll
            for (u32 u = 0; u < UNROLL; u++) {
#pragma unroll
                for (u32 o = 0; o < OUTPUTS; o++) {
                    fetched[u][o] = next[u][o];
                    next[u][o] = fetch_of(o, first_chunk + (UNROLL + u) * WARP + lane);
                }
            }
#pragma unroll
            for (u32 u = 0; u < UNROLL; u++) {
                u32 chunk = first_chunk + u * WARP + lane;
#pragma unroll
                for (u32 quad = 0; quad < QUADS; quad++) {
                    float4 weight[OUTPUTS];
#pragma unroll
                    for (u32 o = 0; o < OUTPUTS; o++) weight[o] = expand(fetched[u][o], scale_of(fetched[u][o].scale, chunk), quad);
#pragma unroll
                    for (u32 r = 0; r < ROWS; r++) {
                        float4 value = input[r * ROW_PITCH + quad * QUAD_PITCH + (batch * UNROLL + u) * WARP];
#pragma unroll
                        for (u32 o = 0; o < OUTPUTS; o++) {
                            float& to = sum[r * OUTPUTS + o];
                            to += weight[o].x * value.x;
                            to += weight[o].y * value.y;
                            to += weight[o].z * value.z;
                            to += weight[o].w * value.w;
                        }
                    }
                }
            }
        }
        // All have read the segment before the one after the next takes its place.
        __syncthreads();
    }

    float total = total_of(sum);
#pragma unroll
    for (u32 step = ROWS * OUTPUTS; step < WARP; step *= 2) total += __shfl_xor_sync(ALL, total, step);
    u32 r = lane / OUTPUTS;
    if (r < ROWS && first_row + r < rows) product.store(first_row + r, output + lane % OUTPUTS, total, add != 0);
}
