// What: out = f(base + change) - f(base), with f GELU, or SwiGLU with its gate half first.
// Contract: engine/contract/src/op/activate.rs
// Grid: elements of all rows / 64, as x_groups * y; one element a thread.
// Shared: none.
// Numerics: f32; the error function by Abramowitz and Stegun 7.1.26, off by up to 1.5e-7; exponentials are kept finite. No difference is
// taken of values that are large and near each other.

struct Params {
    rows: u32,
    // Columns of the result.
    cols: u32,
    // Workgroups along x.
    x_groups: u32,
    // Elements of a row of `change`, of one of `base` (0 where one row serves all), and of one of `out`.
    change_pitch: u32,
    base_pitch: u32,
    out_pitch: u32,
    // Whether f is SwiGLU.
    gated: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> change: array<f32>;
@group(0) @binding(2) var<storage, read> base: array<f32>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// 1 / (1 + exp(-v)).
fn logistic(v: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-v, 80.0)));
}

// The share of the normal distribution that lies below v: (1 + erf(v / sqrt(2))) / 2.
fn normal(v: f32) -> f32 {
    let x = min(abs(v), 12.0) * 0.70710678;
    let t = 1.0 / (1.0 + 0.3275911 * x);
    let series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    let tail = 0.5 * series * exp(-x * x);
    return select(tail, 1.0 - tail, v > 0.0);
}

// GELU and silu are v * share(v), with share(-v) = 1 - share(v).
fn share(v: f32) -> f32 {
    if params.gated != 0u {
        return logistic(v);
    }
    return normal(v);
}

// (v + by) * share(v + by) - v * share(v): by * share(v + by) + v * (share(v + by) - share(v)), the second difference on the side of zero where
// shares are small. Exactly zero for no change, however a compiler contracts products and sums.
fn moved(v: f32, by: f32) -> f32 {
    if by == 0.0 {
        return 0.0;
    }
    let side = select(1.0, -1.0, v > 0.0);
    return by * share(v + by) - abs(v) * (share(side * (v + by)) - share(side * v));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let id = (group.y * params.x_groups + group.x) * 64u + thread;
    let row = id / params.cols;
    let col = id % params.cols;
    if row >= min(count[0], params.rows) {
        return;
    }
    let at = row * params.change_pitch + col;
    let from_base = row * params.base_pitch + col;
    let by = change[at];
    let before = base[from_base];
    var value = moved(before, by);
    if params.gated != 0u {
        // silu(gate + by) * (linear + more) - silu(gate) * linear.
        let linear = base[from_base + params.cols];
        let more = change[at + params.cols];
        let gate = before + by;
        value = gate * logistic(gate) * more + value * linear;
    }
    out[row * params.out_pitch + col] = value;
}
