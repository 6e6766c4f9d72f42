// What: out = f(base + change) - f(base), with f GELU, or SwiGLU with its gate half first.
// Contract: engine/contract/src/op/activate.rs
// Grid: x = rows, y = quads of a row / THREADS; one quad of elements a thread.
// Shared: none.
// Numerics: f32; exponentials are kept finite. No difference is taken of values that are large and near each other.
//:threads 128
//:variant ACTIVATION = GELU | SWIGLU
#include "part/launch.cuh"
#include "part/math.cuh"

enum Activation { GELU, SWIGLU };

// 1 / (1 + exp(-v)).
__device__ inline float logistic(float v) { return 1.0f / (1.0f + expf(fminf(-v, 80.0f))); }

// GELU and silu are v * share(v), with share(-v) = 1 - share(v): for GELU the share of the normal distribution that lies below v.
__device__ inline float share(float v) { return ACTIVATION == SWIGLU ? logistic(v) : 0.5f * erfcf(-0.70710678f * v); }

// (v + by) * share(v + by) - v * share(v): by * share(v + by) + v * (share(v + by) - share(v)), the second difference on the side of zero where
// shares are small. Exactly zero for no change, however a compiler contracts products and sums.
__device__ inline float moved(float v, float by) {
    if (by == 0.0f) return 0.0f;
    float side = v > 0.0f ? -1.0f : 1.0f;
    return by * share(v + by) - fabsf(v) * (share(side * (v + by)) - share(side * v));
}

// The same, gated: silu(v + by) * (linear + more) - silu(v) * linear.
__device__ inline float changed(float v, float by, float linear, float more) {
    float value = moved(v, by);
    if (ACTIVATION == GELU) return value;
    float gate = v + by;
    return gate * logistic(gate) * more + value * linear;
}

// Elements `col` to `col + 3` of `cols`, of which those beyond are zero; rows of whole quads are aligned as such.
__device__ inline float4 load_quad(const float* row, u32 col, u32 cols) {
    if (cols % 4 == 0) return *reinterpret_cast<const float4*>(row + col);
    auto at = [&](u32 i) { return col + i < cols ? row[col + i] : 0.0f; };
    return make_float4(at(0), at(1), at(2), at(3));
}

// cols: columns of the result. change_pitch, base_pitch, out_pitch: elements of rows; base_pitch is 0 where one row serves all.
extern "C" __global__ void __launch_bounds__(THREADS) activate(
    const float* change, const float* base, const u32* count, float* out,
    u32 rows, u32 cols, u32 change_pitch, u32 base_pitch, u32 out_pitch) {
    wait_for_inputs();
    release_dependents();
    u32 row = blockIdx.x, col = 4 * (blockIdx.y * THREADS + threadIdx.x);
    if (row >= min(*count, rows) || col >= cols) return;
    const float* changes = change + u64(row) * change_pitch;
    const float* bases = base + u64(row) * base_pitch;
    float4 by = load_quad(changes, col, cols), before = load_quad(bases, col, cols);
    float4 more = by, linear = before;
    if (ACTIVATION == SWIGLU) {
        more = load_quad(changes + cols, col, cols);
        linear = load_quad(bases + cols, col, cols);
    }
    float4 value = make_float4(
        changed(before.x, by.x, linear.x, more.x), changed(before.y, by.y, linear.y, more.y),
        changed(before.z, by.z, linear.z, more.z), changed(before.w, by.w, linear.w, more.w));
    // Beyond the columns a row is padded to a quad.
    *reinterpret_cast<float4*>(out + u64(row) * out_pitch + col) = value;
}
