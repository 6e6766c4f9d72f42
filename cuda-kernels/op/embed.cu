// What: out[i] = table[rows[i].token]; a token beyond the table gives zeros.
// Contract: engine/contract/src/op/embed.rs
// Grid: x = quads of a row / THREADS, y = rows; one quad of elements a thread.
// Shared: none.
// Numerics: one f32 multiply-add an element.
//:threads 64
//:variant WEIGHT = F16 | Q4 | Q8G32 | Q8G16 | Q8G32M
#include "part/launch.cuh"
#include "part/weight.cuh"

// weight_pitch, scale_offset: chunks of a table row, and of it before the scales. out_pitch: quads of an output row.
extern "C" __global__ void __launch_bounds__(THREADS) embed(
    const uint4* table, const RowDesc* rows, const u32* count, float4* out,
    u32 capacity, u32 vocabulary, u32 weight_pitch, u32 scale_offset, u32 out_pitch) {
    wait_for_inputs();
    release_dependents();
    u32 quad = blockIdx.x * THREADS + threadIdx.x;
    u32 row = blockIdx.y;
    if (row >= min(*count, capacity) || quad >= out_pitch) return;
    u32 token = rows[row].token;
    float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (token < vocabulary) {
        WeightRow from = {table + u64(token) * weight_pitch, scale_offset};
        value = Weight<WEIGHT>::quad(from, quad);
    }
    out[u64(row) * out_pitch + quad] = value;
}
