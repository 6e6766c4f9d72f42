// What: q = w_q . n + b_q, and k and v alike, for one row, where n is the norm of the input row: the first step of the op where head norms follow.
// Contract: engine/contract/src/op/qkv_rope_append.rs
// Grid: x = any number of blocks, each with its share of the outputs; a warp computes two outputs of a weight at a time.
// Shared: dynamic: part/one_row.cuh.
// Numerics: f32 sums by chunk, of f16 weights by f32 inputs, and of codes by inputs as integers of 20 bits; chunks by thread, then threads; then the norm.
//:threads 512
//:variant WEIGHT = F16 | Q4 | Q8G32 | Q8G16 | Q8G32M
#include "part/one_row.cuh"

// A weight with its bias, or null, and its outputs.
struct Product {
    const uint4* weight;
    const float* bias;
    float* y;
};

// Heads have an even number of elements, so that no pair has outputs of two weights.
struct Outputs {
    Product q, k, v;
    const float4* x;
    u32 q_outputs, kv_outputs, weight_pitch;

    // The pair's product; `pair` becomes the first of its outputs there.
    __device__ Product product(u32& pair) const {
        u32 output = 2 * pair;
        bool is_query = output < q_outputs, is_key = output < q_outputs + kv_outputs;
        pair = output - (is_query ? 0 : is_key ? q_outputs : q_outputs + kv_outputs);
        return is_query ? q : is_key ? k : v;
    }

    __device__ const uint4* row(u32 pair, u32 i) const {
        const uint4* weight = product(pair).weight;
        return weight + u64(pair + i) * weight_pitch;
    }

    __device__ const float4* input() const { return x; }

    // The first two threads of a warp store an output each. What rows that do not count leave is not read.
    __device__ float before(u32 pair) const {
        const float* bias = product(pair).bias;
        return bias && threadIdx.x % WARP < ROWS ? bias[pair + threadIdx.x % WARP] : 0.0f;
    }

    __device__ void store(u32 pair, float bias, float first, float second) const {
        float* y = product(pair).y;
        if (threadIdx.x % WARP < ROWS) y[pair + threadIdx.x % WARP] = (threadIdx.x % WARP == 0 ? first : second) + bias;
    }
};

// chunks, weight_pitch: 16-byte chunks of a weight row's codes, and of a whole weight row. segment: chunks whose input is staged at a time.
extern "C" __global__ void __launch_bounds__(THREADS, 2) qkv_rope_append_one(
    const uint4* w_q, const uint4* w_k, const uint4* w_v, const float4* x, const float4* norm,
    const float* b_q, const float* b_k, const float* b_v, float* q, float* k, float* v,
    u32 q_outputs, u32 kv_outputs, u32 chunks, u32 weight_pitch, u32 segment, float epsilon) {
    Outputs of = {{w_q, b_q, q}, {w_k, b_k, k}, {w_v, b_v, v}, x, q_outputs, kv_outputs, weight_pitch};
    one_row<WEIGHT>(of, q_outputs / 2 + kv_outputs, {chunks, weight_pitch, segment}, norm, epsilon);
}
