// What: attention of one row's up to QUERIES query heads that share a key head, over one split of its view; the last split to end merges all.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = rows * key heads * blocks of QUERIES query heads, y = splits; a warp takes 16 tokens at a time, each straight into registers.
// Shared: up to 17 KiB for what the warps merge, and up to 8 KiB for queries.
// Numerics: f32 sums; queries and weights are taken as two f16 each.
//:threads 128
//:variant DIM = 64 | 128 | 256 | 512
//:variant WHOLE = true | false
//:variant QUERIES = 4 | 8
#include "part/attend.cuh"
#include "part/launch.cuh"
#include "part/reduce.cuh"
#include "part/tensor_core.cuh"

constexpr u32 WARPS = THREADS / WARP;
// Tokens of a warp's step.
constexpr u32 TOKENS = 16;
// Elements of a head whose keys, and then values, a warp holds at once.
constexpr u32 SLICE = DIM == 512 ? 64 : DIM < 128 ? DIM : 128;
constexpr u32 SLICES = DIM / SLICE;
constexpr u32 SLICE_CHUNKS = SLICE / 8;
// Chunks of a token's keys that a lane holds, and of its values.
constexpr u32 KEY_CHUNKS = SLICE_CHUNKS / 4;
constexpr u32 VALUE_CHUNKS = SLICE_CHUNKS / 8;
// Scores and weights of a token that a lane holds. Products have eight columns: of four queries each one's larger and smaller part; of eight the
// larger parts, and the smaller ones take products of their own.
constexpr u32 OWN = QUERIES / 4;
constexpr bool BOTH_PARTS = QUERIES == 4;
// Floats from one query's sums to the next in shared memory.
constexpr u32 PART_PITCH = SLICE + 4;

// The element of a product's row that belongs to one of the lane's queries.
__device__ inline float own_sum(float first, float second, u32 own) {
    if (BOTH_PARTS) return first + second;
    return own == 0 ? first : second;
}

// octets: chunks of a head. kv_pitch, values: chunks of a slot, and of its keys. lone: whether rows that share a view are served elsewhere.
extern "C" __global__ void __launch_bounds__(THREADS) attend_split(
    const float4* q, const uint4* kv, const RowDesc* rows, const u32* count, const ViewDesc* views, const u32* entries, float4* out,
    float4* sums, float2* stats, u32 capacity, u32 heads, u32 kv_heads, u32 blocks, u32 octets, u32 kv_pitch, u32 values, u32 splits, u32 lone,
    float scale) {
    __shared__ __align__(16) float parts[WARPS][QUERIES][PART_PITCH];
    // What a warp's weights of a query refer to, and their sum.
    __shared__ float2 warp_stats[WARPS][QUERIES];
    // Smaller parts of eight queries, as the lanes hold the larger ones.
    __shared__ uint2 minor_queries[BOTH_PARTS ? 1 : DIM / 16][WARP];

    wait_for_inputs();
    release_dependents();
    u32 row = blockIdx.x / (kv_heads * blocks);
    u32 kv_head = blockIdx.x / blocks % kv_heads;
    u32 block = blockIdx.x % blocks;
    u32 group = heads / kv_heads;
    u32 first_head = kv_head * group + block * QUERIES;
    u32 block_queries = min(group - block * QUERIES, QUERIES);
    u32 row_count = min(*count, capacity);
    u32 view_index = rows[row].view;
    u32 position = rows[row].position;
    if (row >= row_count || (lone && !is_lone(rows, row, row_count))) return;
    ViewDesc view = views[view_index];
    u32 visible = view_visible(view, position);
    u32 tokens = split_tokens(view.length, splits, TOKENS);
    u32 used = min(max(ceil_div(visible, tokens), 1u), splits);
    u32 split = blockIdx.y;
    if (split >= used) return;
    u32 begin = split * tokens;
    u32 end = min(begin + tokens, visible);

    u32 warp = threadIdx.x / WARP;
    u32 lane = threadIdx.x % WARP;
    // A lane's place in the operands of products.
    u32 line = lane / 4;
    u32 pair = lane % 4;
    u64 query_row = u64(row) * heads + first_head;
    u32 quads = 2 * octets;

    // Queries as the second factor: of chunk 4 * i + pair the elements 4 * j to 4 * j + 3. Which of a product's elements are multiplied with which
    // is up to the factors' order, as long as both have the same.
    u32 query[DIM / 32][2][2];
    u32 column_query = BOTH_PARTS ? line / 2 : line;
#pragma unroll
    for (u32 i = 0; i < DIM / 32; i++) {
#pragma unroll
        for (u32 j = 0; j < 2; j++) {
            u32 chunk = 4 * i + pair;
            float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (column_query < block_queries && chunk < octets) value = q[(query_row + column_query) * quads + 2 * chunk + j];
            value = scaled(value, scale * LOG2_E);
            if (BOTH_PARTS) {
                if (line % 2 == 1) value = minor_part(value);
            } else if (warp == 0) {
                float4 minor = minor_part(value);
                minor_queries[2 * i + j][lane] = make_uint2(f16_pair(minor.x, minor.y), f16_pair(minor.z, minor.w));
            }
            query[i][j][0] = f16_pair(value.x, value.y);
            query[i][j][1] = f16_pair(value.z, value.w);
        }
    }

    if (!BOTH_PARTS) __syncthreads();

    const uint4* head_keys = kv + kv_head * octets;
    const uint4* head_values = head_keys + values;
    ViewSlots slots(view, entries);
    // Keys of tokens `line` and `line + 8`, and values of tokens 2 * pair, the next, and those 8 further on, as products want them.
    uint4 keys[2][KEY_CHUNKS];
    uint4 rows_of_values[4][VALUE_CHUNKS];
    auto load_keys = [&](u32 places, u32 slice) {
#pragma unroll
        for (u32 t = 0; t < 2; t++) {
            const uint4* from = head_keys + u64(__shfl_sync(ALL, places, line + 8 * t)) * kv_pitch;
#pragma unroll
            for (u32 i = 0; i < KEY_CHUNKS; i++) {
                u32 chunk = slice * SLICE_CHUNKS + 4 * i + pair;
                keys[t][i] = __ldcg(from + (WHOLE ? chunk : min(chunk, octets - 1)));
            }
        }
    };
    auto load_values = [&](u32 places, u32 slice) {
#pragma unroll
        for (u32 t = 0; t < 4; t++) {
            const uint4* from = head_values + u64(__shfl_sync(ALL, places, 2 * pair + t % 2 + 8 * (t / 2))) * kv_pitch;
#pragma unroll
            for (u32 j = 0; j < VALUE_CHUNKS; j++) {
                u32 chunk = slice * SLICE_CHUNKS + 8 * j + line;
                rows_of_values[t][j] = __ldcg(from + (WHOLE ? chunk : min(chunk, octets - 1)));
            }
        }
    };

    // Of chunk 8 * j + line, elements 2 * m and the next, for the columns 2 * pair and the next.
    float sum[DIM / 64][4][4] = {};
    float reference[OWN];
    float weight_sum[OWN] = {};
#pragma unroll
    for (u32 own = 0; own < OWN; own++) reference[own] = UNSEEN;

    // Loads run ahead: of slots by two steps, of keys by one, and of a step's values while its keys are multiplied.
    constexpr u32 STEP = WARPS * TOKENS;
    u32 at = begin + warp * TOKENS;
    u32 own_token = lane % TOKENS;
    u32 places = 0, next_places = 0;
    if (at < end) {
        places = slots[min(at + own_token, end - 1)];
        next_places = slots[min(at + STEP + own_token, end - 1)];
        load_keys(places, 0);
    }
    for (; at < end; at += STEP) {
        load_values(places, 0);
        u32 later_places = slots[min(at + 2 * STEP + own_token, end - 1)];
        float product[4] = {};
#pragma unroll
        for (u32 slice = 0; slice < SLICES; slice++) {
#pragma unroll
            for (u32 i = 0; i < KEY_CHUNKS; i++) {
                uint4 low = keys[0][i], high = keys[1][i];
                u32 front[4] = {low.x, high.x, low.y, high.y};
                u32 back[4] = {low.z, high.z, low.w, high.w};
                u32 (&with)[2][2] = query[slice * KEY_CHUNKS + i];
                multiply_16x8x16(product, front, with[0][0], with[0][1]);
                multiply_16x8x16(product, back, with[1][0], with[1][1]);
                if (!BOTH_PARTS) {
                    uint2 minor_front = minor_queries[2 * (slice * KEY_CHUNKS + i)][lane];
                    uint2 minor_back = minor_queries[2 * (slice * KEY_CHUNKS + i) + 1][lane];
                    multiply_16x8x16(product, front, minor_front.x, minor_front.y);
                    multiply_16x8x16(product, back, minor_back.x, minor_back.y);
                }
            }
            if (slice + 1 < SLICES) load_keys(places, slice + 1);
        }
        if (at + STEP < end) load_keys(next_places, 0);

        float score[2][OWN];
        float largest[OWN];
        bool grows = false;
#pragma unroll
        for (u32 own = 0; own < OWN; own++) {
#pragma unroll
            for (u32 t = 0; t < 2; t++) {
                score[t][own] = at + line + 8 * t < end ? own_sum(product[2 * t], product[2 * t + 1], own) : LEAST;
            }
            largest[own] = fmaxf(score[0][own], score[1][own]);
            grows |= largest[own] > reference[own] + SLACK;
        }
        if (__any_sync(ALL, grows)) {
            float keep[OWN];
#pragma unroll
            for (u32 own = 0; own < OWN; own++) {
#pragma unroll
                for (u32 step = 4; step < WARP; step *= 2) largest[own] = fmaxf(largest[own], __shfl_xor_sync(ALL, largest[own], step));
                float fresh = largest[own] > reference[own] + SLACK ? largest[own] : reference[own];
                keep[own] = power_of_two(reference[own] - fresh);
                reference[own] = fresh;
                weight_sum[own] *= keep[own];
            }
#pragma unroll
            for (u32 i = 0; i < DIM / 4; i++) sum[i / 16][i / 4 % 4][i % 4] *= keep[OWN == 1 ? 0 : i % 2];
        }
        // Weights as the second factor: tokens are its rows.
        u32 weights[2], minor_weights[2];
#pragma unroll
        for (u32 t = 0; t < 2; t++) {
            float weight[OWN];
#pragma unroll
            for (u32 own = 0; own < OWN; own++) {
                weight[own] = power_of_two(score[t][own] - reference[own]);
                weight_sum[own] += weight[own];
            }
            weights[t] = transpose_8x8(half_pair(weight[0], BOTH_PARTS ? minor_part(weight[0]) : weight[OWN - 1]));
            if (!BOTH_PARTS) minor_weights[t] = transpose_8x8(half_pair(minor_part(weight[0]), minor_part(weight[OWN - 1])));
        }
#pragma unroll
        for (u32 slice = 0; slice < SLICES; slice++) {
#pragma unroll
            for (u32 j = 0; j < VALUE_CHUNKS; j++) {
#pragma unroll
                for (u32 m = 0; m < 4; m++) {
                    u32 word[4];
#pragma unroll
                    for (u32 t = 0; t < 4; t++) {
                        uint4 from = rows_of_values[t][j];
                        word[t] = m == 0 ? from.x : m == 1 ? from.y : m == 2 ? from.z : from.w;
                    }
                    // Two tokens' element 2 * m, and their next.
                    u32 factor[4] = {__byte_perm(word[0], word[1], 0x5410), __byte_perm(word[0], word[1], 0x7632),
                                     __byte_perm(word[2], word[3], 0x5410), __byte_perm(word[2], word[3], 0x7632)};
                    float (&of)[4] = sum[slice * VALUE_CHUNKS + j][m];
                    multiply_16x8x16(of, factor, weights[0], weights[1]);
                    if (!BOTH_PARTS) multiply_16x8x16(of, factor, minor_weights[0], minor_weights[1]);
                }
            }
            if (slice + 1 < SLICES) load_values(places, slice + 1);
        }
        places = next_places;
        next_places = later_places;
    }

    // Warps become one: each scales its sums to the largest reference.
#pragma unroll
    for (u32 own = 0; own < OWN; own++) {
#pragma unroll
        for (u32 step = 4; step < WARP; step *= 2) weight_sum[own] += __shfl_xor_sync(ALL, weight_sum[own], step);
        if (line == 0) warp_stats[warp][pair * OWN + own] = make_float2(reference[own], weight_sum[own]);
    }
    __syncthreads();
    // What the block's weights of a query refer to, and their sum.
    auto block_stat = [&](u32 of) {
        float2 stat = make_float2(LEAST, 0.0f);
        for (u32 w = 0; w < WARPS; w++) stat.x = fmaxf(stat.x, warp_stats[w][of].x);
        for (u32 w = 0; w < WARPS; w++) stat.y += warp_stats[w][of].y * power_of_two(warp_stats[w][of].x - stat.x);
        return stat;
    };
    float factor[OWN];
#pragma unroll
    for (u32 own = 0; own < OWN; own++) factor[own] = power_of_two(reference[own] - block_stat(pair * OWN + own).x);
#pragma unroll
    for (u32 slice = 0; slice < SLICES; slice++) {
        // All have read what the slice before left.
        if (slice > 0) __syncthreads();
#pragma unroll
        for (u32 j = 0; j < VALUE_CHUNKS; j++) {
#pragma unroll
            for (u32 own = 0; own < OWN; own++) {
                float4* to = reinterpret_cast<float4*>(&parts[warp][pair * OWN + own][8 * (8 * j + line)]);
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    float (&low)[4] = sum[slice * VALUE_CHUNKS + j][2 * half];
                    float (&high)[4] = sum[slice * VALUE_CHUNKS + j][2 * half + 1];
                    to[half] = make_float4(factor[own] * own_sum(low[0], low[1], own), factor[own] * own_sum(low[2], low[3], own),
                                           factor[own] * own_sum(high[0], high[1], own), factor[own] * own_sum(high[2], high[3], own));
                }
            }
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < block_queries * (SLICE / 4); i += THREADS) {
            u32 of = i / (SLICE / 4);
            u32 within = i % (SLICE / 4);
            u32 quad = slice * (SLICE / 4) + within;
            if (!WHOLE && quad >= quads) continue;
            float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            for (u32 w = 0; w < WARPS; w++) {
                float4 part = *reinterpret_cast<float4*>(&parts[w][of][4 * within]);
                value = make_float4(value.x + part.x, value.y + part.y, value.z + part.z, value.w + part.w);
            }
            if (used == 1) {
                out[(query_row + of) * quads + quad] = scaled(value, 1.0f / fmaxf(block_stat(of).y, LEAST_WEIGHT));
            } else {
                sums[((query_row + of) * splits + split) * quads + quad] = value;
            }
        }
    }
    if (used == 1) return;
    if (threadIdx.x < block_queries) stats[(query_row + threadIdx.x) * splits + split] = block_stat(threadIdx.x);
    if (!is_last_block(blockIdx.x, used)) return;
    for (u32 i = threadIdx.x; i < block_queries * quads; i += THREADS) {
        u64 of = query_row + i / quads;
        out[of * quads + i % quads] = merge_splits(sums, stats, of, splits, used, quads, i % quads);
    }
}
