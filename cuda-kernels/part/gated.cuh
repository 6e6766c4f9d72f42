// The gate of a feed-forward layer.
#pragma once
#include "part/math.cuh"

// silu(gate) * up, with the exponential kept finite.
__device__ inline float gated(float gate, float up) { return gate / (1.0f + expf(fminf(-gate, 80.0f))) * up; }
