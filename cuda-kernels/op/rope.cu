// What: head norm and rotary embedding of restored keys, and values as they are, into scratch rows as f16.
// Contract: engine/contract/src/op/rope.rs
// Grid: x = rows * heads (keys, then values) * team / THREADS, or fewer blocks that take heads in turn; `team` threads of a warp a head.
// Shared: none.
// Numerics: f32; cosine and sine by the addition theorem from the table; one rounding to f16, ties to even.
//:threads 128
//:variant NAMING = EVERY | LISTED | MISSING
//:variant WIDTH = 1 | 4
#include "part/launch.cuh"
#include "part/reduce.cuh"
#include "part/restored.cuh"
#include "part/rotation.cuh"

// Pairs of elements of a head at most, and how many times a thread of a whole warp takes WIDTH of them.
constexpr u32 PAIRS = 128;
constexpr u32 ROUNDS = PAIRS / (WARP * WIDTH);

__device__ inline void store(f16* to, const float (&values)[1]) { *to = f16_of(values[0]); }
__device__ inline void store(f16* to, const float (&values)[4]) {
    *reinterpret_cast<uint2*>(to) = make_uint2(f16_pair(values[0], values[1]), f16_pair(values[2], values[3]));
}

// x_rows: rows at most. team: a power of two. x_pitch, rope_pitch, kv_pitch: elements of a row. slots: rows of kv.
extern "C" __global__ void __launch_bounds__(THREADS) rope(
    const float* x, const u32* tokens, const StoreDesc* stores, const u32* count, const float* norm, const float* table, f16* kv,
    u32 x_rows, u32 first, u32 pitch, u32 tokens_pitch, u32 heads, u32 head_dim, u32 team, u32 table_rows, u32 x_pitch, u32 rope_pitch,
    u32 kv_pitch, u32 slots, float epsilon) {
    release_dependents();
    wait_for_inputs();
    u32 half = head_dim / 2, teams = WARP / team;
    u32 own = threadIdx.x % team;
    u32 all = min(*count, x_rows) * heads;
    u32 warp = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    for (u32 at = warp * teams; at < all; at += gridDim.x * (THREADS / WARP) * teams) {
        u32 item = at + threadIdx.x % WARP / team;
        u32 row = item / heads, head = item % heads;
        RestoredToken token = {0, ABSENT, 0};
        if (item < all) token = restored_token<NAMING>(tokens, stores, first + row, pitch, tokens_pitch);
        bool counts = token.position != ABSENT && token.slot < slots;
        bool is_key = 2 * head < heads;
        const float* from = x + u64(row) * x_pitch + head * head_dim;
        float a[ROUNDS][WIDTH] = {}, b[ROUNDS][WIDTH] = {};
        float squares = 0.0f;
        #pragma unroll
        for (u32 round = 0; round < ROUNDS; round++) {
            u32 j = (round * team + own) * WIDTH;
            if (!counts || j >= half) continue;
            Rotation::load(from + j, a[round]);
            Rotation::load(from + half + j, b[round]);
            #pragma unroll
            for (u32 i = 0; i < WIDTH; i++) squares += a[round][i] * a[round][i] + b[round][i] * b[round][i];
        }
        // All threads of a warp sum, since its teams may have different heads.
        for (u32 step = team / 2; step > 0; step /= 2) squares += __shfl_xor_sync(ALL, squares, step);
        if (!counts) continue;
        float factor = 1.0f / sqrtf(squares / float(head_dim) + epsilon);
        Rotation rotation = Rotation::at(table, token.position, table_rows, rope_pitch, head_dim);
        f16* to = kv + u64(token.slot) * kv_pitch + head * head_dim;
        #pragma unroll
        for (u32 round = 0; round < ROUNDS; round++) {
            u32 j = (round * team + own) * WIDTH;
            if (j >= half) continue;
            if (is_key && norm != nullptr) {
                float low[WIDTH], high[WIDTH];
                Rotation::load(norm + j, low);
                Rotation::load(norm + half + j, high);
                #pragma unroll
                for (u32 i = 0; i < WIDTH; i++) {
                    a[round][i] *= factor * low[i];
                    b[round][i] *= factor * high[i];
                }
            }
            if (is_key) rotation.turn(j, a[round], b[round]);
            store(to + j, a[round]);
            store(to + half + j, b[round]);
        }
    }
}
