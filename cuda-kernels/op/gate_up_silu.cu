// What: out = silu(gate) .* up, element by element, and as f16 besides where a product takes it next: the last step of the op where its products are separate.
// Contract: engine/contract/src/op/gate_up_silu.rs
// Grid: x = quads of all rows / THREADS; one quad of elements a thread.
// Shared: none.
// Numerics: f32; the exponential is kept finite. f16 to nearest, ties to even, and within its range.
//:threads 256
//:variant INPUT = FLOAT | HALF
#include "part/gated.cuh"
#include "part/launch.cuh"

enum InputType { FLOAT, HALF };

__device__ inline float4 load_quad(const void* from, u64 quad) {
    if (INPUT == FLOAT) return static_cast<const float4*>(from)[quad];
    uint2 halves = static_cast<const uint2*>(from)[quad];
    return make_float4(f32_low(halves.x), f32_high(halves.x), f32_low(halves.y), f32_high(halves.y));
}

// pitch, in_pitch: quads of a row of the outputs, and of the inputs. half_out: null where it is not wanted; rows that do not count are zeros there.
extern "C" __global__ void __launch_bounds__(THREADS) gate_up_silu(
    const void* gate, const void* up, const u32* count, float4* out, uint2* half_out,
    u32 capacity, u32 pitch, u32 in_pitch) {
    wait_for_inputs();
    release_dependents();
    u64 quad = u64(blockIdx.x) * THREADS + threadIdx.x;
    if (quad >= u64(min(*count, capacity)) * pitch) {
        if (half_out && quad < u64(capacity) * pitch) half_out[quad] = make_uint2(0, 0);
        return;
    }
    u64 from = in_pitch == pitch ? quad : quad / pitch * in_pitch + quad % pitch;
    float4 g = load_quad(gate, from), u = load_quad(up, from);
    float4 value = make_float4(gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w));
    out[quad] = value;
    if (half_out) half_out[quad] = make_uint2(f16_pair(value.x, value.y), f16_pair(value.z, value.w));
}
