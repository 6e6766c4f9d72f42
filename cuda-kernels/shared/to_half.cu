// What: out[i] = a[i], rounded to f16, for tensor cores; rows that do not count are zeros, which a product may add.
// Contract: engine/contract/src/op/{linear,linear_add}.rs
// Grid: x = octets of all rows / THREADS; one octet of elements a thread.
// Shared: none.
// Numerics: rounded to nearest, ties to even; numbers beyond the range of f16 become its largest.
//:threads 256
#include "part/launch.cuh"
#include "part/math.cuh"

// pitch: octets of a row.
extern "C" __global__ void __launch_bounds__(THREADS) to_half(const float4* a, const u32* count, uint4* out, u32 capacity, u32 pitch) {
    wait_for_inputs();
    release_dependents();
    u64 octet = u64(blockIdx.x) * THREADS + threadIdx.x;
    if (octet >= u64(capacity) * pitch) return;
    if (octet >= u64(*count) * pitch) {
        out[octet] = make_uint4(0, 0, 0, 0);
        return;
    }
    float4 low = a[2 * octet], high = a[2 * octet + 1];
    out[octet] = make_uint4(f16_pair(low.x, low.y), f16_pair(low.z, low.w), f16_pair(high.x, high.y), f16_pair(high.z, high.w));
}
