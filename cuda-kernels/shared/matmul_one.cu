// What: y[o] = weight[o] . n + bias[o], or added to y, for one row, where n is the input row or its norm.
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear}.rs
// Grid: x = any number of blocks, each with its share of the outputs; a warp computes two outputs at a time.
// Shared: dynamic: part/one_row.cuh.
// Numerics: f32 sums by chunk, of f16 weights by f32 inputs, and of codes by inputs as integers of 20 bits; chunks by thread, then threads; then the norm.
//:threads 512
//:variant WEIGHT = F16 | Q4 | Q8G32 | Q8G16 | Q8G32M
#include "part/one_row.cuh"

struct Outputs {
    const uint4* weight;
    const float4* a;
    const u32* selected;
    const float* bias;
    const u32* count;
    float* y;
    u32 outputs, pitch, input_rows, input_pitch, add;
    bool counts;

    // A last output without a second repeats itself.
    __device__ const uint4* row(u32 pair, u32 i) const { return weight + u64(min(2 * pair + i, outputs - 1)) * pitch; }

    __device__ const float4* input() {
        counts = *count > 0;
        return selected ? a + u64(min(*selected, input_rows - 1)) * input_pitch : a;
    }

    // The first two threads of a warp store an output each.
    __device__ u32 output(u32 pair) const { return 2 * pair + threadIdx.x % WARP; }
    __device__ bool stores(u32 pair) const { return threadIdx.x % WARP < 2 && output(pair) < outputs; }

    // What the product is added to: the bias, and what was there.
    __device__ float2 before(u32 pair) const {
        bool needed = stores(pair);
        return make_float2(needed && bias ? bias[output(pair)] : 0.0f, needed && add ? y[output(pair)] : 0.0f);
    }

    __device__ void store(u32 pair, float2 before, float first, float second) const {
        if (stores(pair) && counts) y[output(pair)] = (threadIdx.x % WARP == 0 ? first : second) + before.x + before.y;
    }
};

// chunks, weight_pitch: 16-byte chunks of a weight row's codes, and of a whole weight row. segment: chunks whose input is staged at a time.
// input_pitch: quads of a row of a. selected: the row of a, or null for
// the first. norm: null for the row as it is.
extern "C" __global__ void __launch_bounds__(THREADS, 2) matmul_one(
    const uint4* weight, const float4* a, const u32* selected, const float4* norm, const float* bias, const u32* count, float* y,
    u32 outputs, u32 chunks, u32 weight_pitch, u32 segment, u32 input_rows, u32 input_pitch, u32 add, float epsilon) {
    Outputs of = {weight, a, selected, bias, count, y, outputs, weight_pitch, input_rows, input_pitch, add, false};
    one_row<WEIGHT>(of, ceil_div(outputs, 2), {chunks, weight_pitch, segment}, norm, epsilon);
}
