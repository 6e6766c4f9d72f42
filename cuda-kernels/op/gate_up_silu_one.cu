// What: out[o] = silu(gate[o] . n) * (up[o] . n) for one row, where n is the norm of the input row.
// Contract: engine/contract/src/op/gate_up_silu.rs
// Grid: x = any number of blocks, each with its share of the outputs; a warp computes an output of each weight at a time.
// Shared: dynamic: part/one_row.cuh.
// Numerics: f32 sums by chunk, of f16 weights by f32 inputs, and of codes by inputs as integers of 20 bits; chunks by thread, then threads; then the norm.
//:threads 512
//:variant WEIGHT = F16 | Q4 | Q8G32 | Q8G16 | Q8G32M
#include "part/gated.cuh"
#include "part/one_row.cuh"

struct Outputs {
    const uint4 *gate, *up;
    const float4* x;
    const u32* count;
    float* out;
    u32 pitch;
    bool counts;

    __device__ const uint4* row(u32 pair, u32 i) const { return (i == 0 ? gate : up) + u64(pair) * pitch; }

    __device__ const float4* input() {
        counts = *count > 0;
        return x;
    }

    __device__ bool before(u32) const { return counts; }

    __device__ void store(u32 pair, bool counts, float first, float second) const {
        if (threadIdx.x % WARP == 0 && counts) out[pair] = gated(first, second);
    }
};

// chunks, weight_pitch: 16-byte chunks of a weight row's codes, and of a whole weight row. segment: chunks whose input is staged at a time.
extern "C" __global__ void __launch_bounds__(THREADS, 2) gate_up_silu_one(
    const uint4* gate, const uint4* up, const float4* x, const float4* norm, const u32* count, float* out,
    u32 outputs, u32 chunks, u32 weight_pitch, u32 segment, float epsilon) {
    Outputs of = {gate, up, x, count, out, weight_pitch, false};
    one_row<WEIGHT>(of, outputs, {chunks, weight_pitch, segment}, norm, epsilon);
}
