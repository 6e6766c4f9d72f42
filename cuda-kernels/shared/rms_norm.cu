// What: out[i] = norm .* x[r] / sqrt(mean(x[r]^2) + epsilon), with r = i or r = selected[i].
// Contract: engine/contract/src/op/{norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: x = rows; a block a row.
// Shared: the reduction's.
// Numerics: squares are summed in f32, by thread and then over threads; HALF rounds to f16, within its range.
//:threads 256
//:variant OUT = FLOAT | HALF
#include "part/launch.cuh"
#include "part/reduce.cuh"

enum OutType { FLOAT, HALF };

// width: quads of a row. selected: null where all rows are taken in order.
extern "C" __global__ void __launch_bounds__(THREADS) rms_norm(
    const float4* x, const u32* selected, const float4* norm, const u32* count, void* out,
    u32 capacity, u32 input_rows, u32 width, float epsilon) {
    __shared__ float sums[THREADS / WARP];
    wait_for_inputs();
    release_dependents();
    u32 row = blockIdx.x;
    if (row >= min(*count, capacity)) return;
    u32 from = selected ? min(selected[row], input_rows - 1) : row;
    const float4* input = x + u64(from) * width;
    float squares = 0.0f;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        float4 value = input[i];
        squares += value.x * value.x + value.y * value.y + value.z * value.z + value.w * value.w;
    }
    float total = block_sum<THREADS>(squares, sums);
    float factor = 1.0f / sqrtf(total / float(4 * width) + epsilon);
    u64 base = u64(row) * width;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        float4 value = input[i], weight = norm[i];
        value = make_float4(weight.x * (value.x * factor), weight.y * (value.y * factor), weight.z * (value.z * factor), weight.w * (value.w * factor));
        if (OUT == HALF) {
            static_cast<uint2*>(out)[base + i] = make_uint2(f16_pair(value.x, value.y), f16_pair(value.z, value.w));
        } else {
            static_cast<float4*>(out)[base + i] = value;
        }
    }
}
