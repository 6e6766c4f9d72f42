// Up to three matrix products with the same input in one launch, and where their results go.
#pragma once
#include "part/math.cuh"

// One of them: weights [outputs, columns], bias (or null), and f32 results whose rows are padded to 16 bytes.
struct Product {
    const uint4* weight;
    const float* bias;
    float* y;
    u32 outputs;

    // Stores two neighbouring outputs of a row, the first of them even, each with its bias, or adds them to what is there.
    __device__ void store_pair(u32 row, u32 output, float first, float second, bool add) const {
        if (output >= outputs) return;
        bool both = output + 1 < outputs;
        if (bias) {
            first += bias[output];
            if (both) second += bias[output + 1];
        }
        float* to = y + u64(row) * round_up(outputs, 4) + output;
        if (!both) {
            *to = add ? *to + first : first;
            return;
        }
        float2* pair = reinterpret_cast<float2*>(to);
        if (add) {
            float2 before = *pair;
            first += before.x;
            second += before.y;
        }
        *pair = make_float2(first, second);
    }

    // As store_pair, of one output.
    __device__ void store(u32 row, u32 output, float value, bool add) const {
        if (output >= outputs) return;
        if (bias) value += bias[output];
        float* to = y + u64(row) * round_up(outputs, 4) + output;
        *to = add ? *to + value : value;
    }
};

// The product whose group of `size` outputs is the `group`-th of all, which becomes its place among the product's own.
__device__ inline Product product_of(u32& group, u32 size, Product first, Product second, Product third) {
    u32 groups = ceil_div(first.outputs, size);
    if (group < groups) return first;
    group -= groups;
    groups = ceil_div(second.outputs, size);
    if (group < groups) return second;
    group -= groups;
    return third;
}
