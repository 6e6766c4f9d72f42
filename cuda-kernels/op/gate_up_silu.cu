// What: out = silu(gate) .* up, element by element: the last step of the op where its products are separate.
// Contract: engine/contract/src/op/gate_up_silu.rs
// Grid: x = quads of all rows / THREADS; one quad of elements a thread.
// Shared: none.
// Numerics: f32; the exponential is kept finite.
//:threads 256
#include "part/gated.cuh"
#include "part/launch.cuh"

// pitch: quads of a row.
extern "C" __global__ void __launch_bounds__(THREADS) gate_up_silu(
    const float4* gate, const float4* up, const u32* count, float4* out, u32 capacity, u32 pitch) {
    wait_for_inputs();
    release_dependents();
    u64 quad = u64(blockIdx.x) * THREADS + threadIdx.x;
    if (quad >= u64(min(*count, capacity)) * pitch) return;
    float4 g = gate[quad], u = up[quad];
    out[quad] = make_float4(gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w));
}
