// What: the whole op for one row of a model without head norms: q with its rotary embedding, and k with its and v as f16 into the row's slot.
// Contract: engine/contract/src/op/qkv_rope_append.rs
// Grid: x = any number of blocks, each with its share of the outputs; a warp computes a pair that the embedding turns at a time, or two elements of v.
// Shared: dynamic: part/one_row.cuh.
// Numerics: f32 sums by chunk, of f16 weights by f32 inputs, and of codes by inputs as integers of 20 bits; chunks by thread, then threads; then the norm;
// cosine and sine by the addition theorem; one rounding to f16, ties to even.
//:threads 512
//:variant WEIGHT = F16 | Q4 | Q8G32 | Q8G16 | Q8G32M
#include "part/one_row.cuh"
#include "part/rotation.cuh"

enum Kind { QUERY, KEY, VALUE };

// An element of q, k or v, the first of a pair.
struct Place {
    Kind kind;
    u32 element;
};

struct Outputs {
    const uint4 *w_q, *w_k, *w_v;
    const float4* x;
    const float *b_q, *b_k, *b_v;
    const float* rope;
    const RowDesc* rows;
    const u32* count;
    float* q;
    f16 *kv, *staged;
    u32 q_outputs, kv_outputs, half, weight_pitch, rope_rows, rope_pitch, kv_pitch, slots, staged_rows, unroped;
    RowDesc desc;
    bool counts;

    __device__ Place place(u32 pair) const {
        u32 queries = q_outputs / 2, keys = kv_outputs / 2;
        Kind kind = pair < queries ? QUERY : pair < queries + keys ? KEY : VALUE;
        pair -= kind == QUERY ? 0 : kind == KEY ? queries : queries + keys;
        return {kind, pair / half * (2 * half) + pair % half};
    }

    template <typename T>
    static __device__ T of_kind(Kind kind, T q, T k, T v) {
        return kind == QUERY ? q : kind == KEY ? k : v;
    }

    __device__ const uint4* row(u32 pair, u32 i) const {
        Place at = place(pair);
        return of_kind(at.kind, w_q, w_k, w_v) + u64(at.element + i * half) * weight_pitch;
    }

    __device__ const float4* input() {
        counts = *count > 0;
        desc = *rows;
        return x;
    }

    struct Before {
        float2 bias, turn;
    };

    __device__ Before before(u32 pair) const {
        Place at = place(pair);
        const float* bias = of_kind(at.kind, b_q, b_k, b_v);
        Before before = {make_float2(0.0f, 0.0f), make_float2(1.0f, 0.0f)};
        if (bias) before.bias = make_float2(bias[at.element], bias[at.element + half]);
        if (at.kind != VALUE) {
            Rotation rotation = Rotation::at(rope, desc.position, rope_rows, rope_pitch, 2 * half);
            before.turn = rotation.angle(at.element % (2 * half));
        }
        return before;
    }

    __device__ void store(u32 pair, Before before, float first, float second) const {
        if (threadIdx.x % WARP != 0 || !counts) return;
        Place at = place(pair);
        float2 values = make_float2(first + before.bias.x, second + before.bias.y);
        float2 turn = before.turn;
        float2 embedded = make_float2(values.x * turn.x - values.y * turn.y, values.y * turn.x + values.x * turn.y);
        if (at.kind == QUERY) {
            q[at.element] = embedded.x;
            q[at.element + half] = embedded.y;
            return;
        }
        u32 column = at.element + (at.kind == VALUE ? kv_outputs : 0);
        if (staged && desc.staged < staged_rows) cache(staged + u64(desc.staged) * kv_pitch + column, values);
        if (desc.slot < slots) cache(kv + u64(desc.slot) * kv_pitch + column, at.kind == VALUE || unroped ? values : embedded);
    }

    __device__ void cache(f16* to, float2 values) const {
        to[0] = f16_of(values.x);
        to[half] = f16_of(values.y);
    }
};

// chunks, weight_pitch: 16-byte chunks of a weight row's codes, and of a whole weight row. segment: chunks whose input is staged at a time.
// rope_pitch, kv_pitch: elements of a row of the table, and of the cache and of staged rows. unroped: whether keys are stored as they enter.
extern "C" __global__ void __launch_bounds__(THREADS, 2) qkv_rope_append_whole(
    const uint4* w_q, const uint4* w_k, const uint4* w_v, const float4* x, const float4* norm,
    const float* b_q, const float* b_k, const float* b_v, const float* rope, const RowDesc* rows, const u32* count,
    float* q, f16* kv, f16* staged,
    u32 q_outputs, u32 kv_outputs, u32 head_dim, u32 chunks, u32 weight_pitch, u32 segment,
    u32 rope_rows, u32 rope_pitch, u32 kv_pitch, u32 slots, u32 staged_rows, u32 unroped, float epsilon) {
    Outputs of = {w_q, w_k, w_v, x, b_q, b_k, b_v, rope, rows, count, q, kv, staged, q_outputs, kv_outputs, head_dim / 2,
                  weight_pitch, rope_rows, rope_pitch, kv_pitch, slots, staged_rows, unroped, {}, false};
    one_row<WEIGHT>(of, q_outputs / 2 + kv_outputs, {chunks, weight_pitch, segment}, norm, epsilon);
}
