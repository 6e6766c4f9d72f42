// What: head norm and rotary embedding of q into `q_out` and of k into the row's slot as f16, and v into the slot; k as it enters, and v, into the staged row.
// Contract: engine/contract/src/op/qkv_rope_append.rs
// Grid: x = rows, y = heads (q, then k, then v) / 4; a warp a head.
// Shared: none.
// Numerics: f32; cosine and sine by the addition theorem from the table; one rounding to f16, ties to even.
//:threads 128
#include "part/launch.cuh"
#include "part/reduce.cuh"
#include "part/rotation.cuh"

constexpr u32 WARPS = THREADS / WARP;
// Pairs of a lane, of heads of up to 256 elements.
constexpr u32 PAIRS = 4;

// q_pitch, kv_in_pitch: elements of a row of q, and of k or v as they enter. kv_pitch: elements of a row of the cache. b_q, b_k, b_v: null where they are
// in the inputs already. q_norm, k_norm, staged: null where absent. Rows whose slots do not exist are not stored.
extern "C" __global__ void __launch_bounds__(THREADS) qkv_rope_append(
    const float* q_in, const float* k_in, const float* v_in, const float* b_q, const float* b_k, const float* b_v, const float* q_norm, const float* k_norm, const float* rope,
    const RowDesc* rows, const u32* count, float* q_out, f16* kv, f16* staged,
    u32 capacity, u32 heads, u32 kv_heads, u32 head_dim, u32 unroped, u32 rope_rows, u32 rope_pitch,
    u32 q_pitch, u32 kv_in_pitch, u32 kv_pitch, u32 slots, u32 staged_rows, float epsilon) {
    wait_for_inputs();
    release_dependents();
    u32 row = blockIdx.x, lane = threadIdx.x % WARP;
    u32 head = blockIdx.y * WARPS + threadIdx.x / WARP;
    if (row >= min(*count, capacity) || head >= heads + 2 * kv_heads) return;
    RowDesc desc = rows[row];
    bool is_query = head < heads, is_key = !is_query && head < heads + kv_heads;
    // The head's place among those of its kind.
    u32 place = is_query ? head : is_key ? head - heads : head - heads - kv_heads;
    const float* from = is_query ? q_in + u64(row) * q_pitch : (is_key ? k_in : v_in) + u64(row) * kv_in_pitch;
    from += place * head_dim;
    const float* bias = is_query ? b_q : is_key ? b_k : b_v;

    // Pair i of a lane is of elements j = lane + 32 i and j + half.
    u32 half = head_dim / 2;
    float low[PAIRS] = {}, high[PAIRS] = {};
    float squares = 0.0f;
#pragma unroll
    for (u32 i = 0; i < PAIRS; i++) {
        u32 j = lane + i * WARP;
        if (j >= half) continue;
        low[i] = from[j];
        high[i] = from[j + half];
        if (bias) {
            low[i] += bias[place * head_dim + j];
            high[i] += bias[place * head_dim + j + half];
        }
        squares += low[i] * low[i] + high[i] * high[i];
    }
    auto store_halves = [&](f16* to) {
        to += (is_key ? place : kv_heads + place) * head_dim;
#pragma unroll
        for (u32 i = 0; i < PAIRS; i++) {
            u32 j = lane + i * WARP;
            if (j >= half) continue;
            to[j] = f16_of(low[i]);
            to[j + half] = f16_of(high[i]);
        }
    };
    if (!is_query && staged && desc.staged < staged_rows) store_halves(staged + u64(desc.staged) * kv_pitch);

    if (is_query || (is_key && !unroped)) {
        const float* norm = is_query ? q_norm : k_norm;
        Rotation rotation = Rotation::at(rope, desc.position, rope_rows, rope_pitch, head_dim);
        float factor = norm ? 1.0f / sqrtf(warp_sum(squares) / float(head_dim) + epsilon) : 1.0f;
#pragma unroll
        for (u32 i = 0; i < PAIRS; i++) {
            u32 j = lane + i * WARP;
            if (j >= half) continue;
            float2 turn = rotation.angle(j);
            float x = norm ? low[i] * factor * norm[j] : low[i];
            float y = norm ? high[i] * factor * norm[j + half] : high[i];
            low[i] = x * turn.x - y * turn.y;
            high[i] = y * turn.x + x * turn.y;
        }
    }
    if (is_query) {
        float* to = q_out + u64(row) * q_pitch + place * head_dim;
#pragma unroll
        for (u32 i = 0; i < PAIRS; i++) {
            u32 j = lane + i * WARP;
            if (j >= half) continue;
            to[j] = low[i];
            to[j + half] = high[i];
        }
    } else if (desc.slot < slots) {
        store_halves(kv + u64(desc.slot) * kv_pitch);
    }
}
