// What attention makes of stored tokens: queries turned back, scores, and sums. Needs DIM, NORMED, QUERIES, and what follows from them: HALF, GROUP, GROUPS,
// LOW, PARTS, TILES, SETS and PITCH.
#pragma once
#include "part/attend.cuh"
#include "part/reduce.cuh"
#include "part/tensor_core.cuh"

// What a warp has made of the tokens that it saw, for queries of each set: lane % 4 is the query.
struct Sums {
    // Of a lane's two elements of each tile, for both parts of the weights.
    float sum[SETS][TILES][4];
    float reference[SETS];
    float weight[SETS];

    __device__ void clear() {
#pragma unroll
        for (u32 set = 0; set < SETS; set++) {
            reference[set] = UNSEEN;
            weight[set] = 0.0f;
#pragma unroll
            for (u32 i = 0; i < 4 * TILES; i++) sum[set][i / 4][i % 4] = 0.0f;
        }
    }

    // Weights of tokens lane / 4 and the eighth after it, as factors of products whose rows are tokens. Scores of absent tokens are LEAST.
    __device__ void weigh(const float (&score)[2][SETS], u32 (&weights)[SETS][2]) {
        float largest[SETS];
        bool grows = false;
#pragma unroll
        for (u32 set = 0; set < SETS; set++) {
            largest[set] = fmaxf(score[0][set], score[1][set]);
            grows |= largest[set] > reference[set] + SLACK;
        }
        if (__any_sync(ALL, grows)) {
#pragma unroll
            for (u32 set = 0; set < SETS; set++) {
#pragma unroll
                for (u32 step = 4; step < WARP; step *= 2) largest[set] = fmaxf(largest[set], __shfl_xor_sync(ALL, largest[set], step));
                float fresh = largest[set] > reference[set] + SLACK ? largest[set] : reference[set];
                float keep = power_of_two(reference[set] - fresh);
                reference[set] = fresh;
                weight[set] *= keep;
#pragma unroll
                for (u32 i = 0; i < 4 * TILES; i++) sum[set][i / 4][i % 4] *= keep;
            }
        }
#pragma unroll
        for (u32 set = 0; set < SETS; set++) {
#pragma unroll
            for (u32 t = 0; t < 2; t++) {
                float value = power_of_two(score[t][set] - reference[set]);
                weight[set] += value;
                weights[set][t] = transpose_8x8(half_pair(value, value - f32_low(half_pair(value, 0.0f))));
            }
        }
    }

    // Weights of all lanes that have a query together.
    __device__ void total() {
#pragma unroll
        for (u32 set = 0; set < SETS; set++) {
#pragma unroll
            for (u32 step = 4; step < WARP; step *= 2) weight[set] += __shfl_xor_sync(ALL, weight[set], step);
        }
    }

    // The sums of a tile's two elements, times `factor`.
    __device__ float2 pair_of(u32 set, u32 tile, float factor) const {
        const float (&of)[4] = sum[set][tile];
        return make_float2(factor * (of[0] + of[1]), factor * (of[2] + of[3]));
    }

    // Adds values of a tile: pairs of tokens of its first row's element, and of its second's, as `multiply_16x8x16` takes them.
    __device__ void add(u32 tile, const u32 (&values)[4], const u32 (&weights)[SETS][2]) {
#pragma unroll
        for (u32 set = 0; set < SETS; set++) multiply_16x8x16(sum[set][tile], values, weights[set][0], weights[set][1]);
    }
};

// What a block knows of its queries, keys' means and norms, in shared memory.
struct alignas(16) Known {
    float query[QUERIES][PITCH];
    float key_mean[DIM];
    float value_mean[DIM];
    float norm[DIM];
};

// Queries as the second factor, turned back by the angles of a position.
struct Query {
    u32 factor[SETS][TILES][2];

    __device__ void turn(const Known& known, const float* rope, u32 position, u32 table_rows) {
        u32 line = threadIdx.x % WARP / 4, pair = threadIdx.x % 4;
        const float* low = rope + position % ROPE_LOW * DIM;
        const float* high = rope + min(ROPE_LOW + position / ROPE_LOW, table_rows - 1) * DIM;
#pragma unroll
        for (u32 tile = 0; tile < TILES; tile++) {
            u32 j = tile % LOW * GROUP + tile / LOW * 8 + 2 * pair;
            float2 angle[2];
            table_angles(low, high, j, angle);
#pragma unroll
            for (u32 set = 0; set < SETS; set++) {
                const float* own = known.query[4 * set + line / 2];
                float2 a = *reinterpret_cast<const float2*>(own + j), b = *reinterpret_cast<const float2*>(own + j + HALF);
                float turned[4] = {a.x * angle[0].x + b.x * angle[0].y, a.y * angle[1].x + b.y * angle[1].y,
                                   b.x * angle[0].x - a.x * angle[0].y, b.y * angle[1].x - a.y * angle[1].y};
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    u32 major = half_pair(turned[2 * i], turned[2 * i + 1]);
                    u32 minor = half_pair(turned[2 * i] - f32_low(major), turned[2 * i + 1] - f32_high(major));
                    factor[set][tile][i] = line % 2 ? minor : major;
                }
            }
        }
    }

    // Cosines and sines of elements j and j + 1 at the position of two rows of the table.
    static __device__ void table_angles(const float* low, const float* high, u32 j, float2 (&angle)[2]) {
        float2 low_cos = *reinterpret_cast<const float2*>(low + j), low_sin = *reinterpret_cast<const float2*>(low + HALF + j);
        float2 high_cos = *reinterpret_cast<const float2*>(high + j), high_sin = *reinterpret_cast<const float2*>(high + HALF + j);
        angle[0] = make_float2(low_cos.x * high_cos.x - low_sin.x * high_sin.x, low_sin.x * high_cos.x + low_cos.x * high_sin.x);
        angle[1] = make_float2(low_cos.y * high_cos.y - low_sin.y * high_sin.y, low_sin.y * high_cos.y + low_cos.y * high_sin.y);
    }
};

// Scores of 16 tokens, of which a lane has lane / 4 and the eighth after it. `keys` gives part `n` of their keys, `key_size` times as large: of each
// group elements 8 * n + 2 * (lane % 4) and the next, of both tokens. `angle` gives cosines and sines of two elements of a group and a token. Where they
// are HALVED, elements a and b of a rotary pair are given as halves of their sum and difference, and the cosine less and plus the sine.
template <bool HALVED, typename Keys, typename Angle>
__device__ inline void score_tokens(const Known& known, const Query& query, float key_size, float epsilon, Keys keys, Angle angle, float (&score)[2][SETS]) {
    u32 pair = threadIdx.x % 4;
    float product[SETS][4] = {};
    float squares[2] = {};
#pragma unroll
    for (u32 n = 0; n < PARTS; n++) {
        float y[GROUPS][4];
        keys(n, y);
        if (NORMED) {
#pragma unroll
            for (u32 g = 0; g < GROUPS; g++) {
                float2 norm = *reinterpret_cast<const float2*>(known.norm + GROUP * g + 8 * n + 2 * pair);
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    squares[i / 2] += y[g][i] * y[g][i];
                    y[g][i] *= i % 2 ? norm.y : norm.x;
                }
            }
        }
#pragma unroll
        for (u32 g = 0; g < LOW; g++) {
            u32 turned[4];
#pragma unroll
            for (u32 t = 0; t < 2; t++) {
                float4 at = angle(t, g, n);
                float a = y[g][2 * t], b = y[g + LOW][2 * t], c = y[g][2 * t + 1], d = y[g + LOW][2 * t + 1];
                if (HALVED) {
                    turned[t] = half_pair(a * at.x + b * at.y, c * at.z + d * at.w);
                    turned[t + 2] = half_pair(a * at.y - b * at.x, c * at.w - d * at.z);
                } else {
                    turned[t] = half_pair(a * at.x - b * at.y, c * at.z - d * at.w);
                    turned[t + 2] = half_pair(b * at.x + a * at.y, d * at.z + c * at.w);
                }
            }
#pragma unroll
            for (u32 set = 0; set < SETS; set++) {
                const u32 (&factor)[2] = query.factor[set][n * LOW + g];
                multiply_16x8x16(product[set], turned, factor[0], factor[1]);
            }
        }
    }
#pragma unroll
    for (u32 t = 0; t < 2; t++) {
        float size = 1.0f;
        if (NORMED) {
            squares[t] += __shfl_xor_sync(ALL, squares[t], 1);
            squares[t] += __shfl_xor_sync(ALL, squares[t], 2);
            size = rsqrtf(squares[t] / (key_size * key_size * DIM) + epsilon);
        }
#pragma unroll
        for (u32 set = 0; set < SETS; set++) score[t][set] = size * (product[set][2 * t] + product[set][2 * t + 1]);
    }
}
