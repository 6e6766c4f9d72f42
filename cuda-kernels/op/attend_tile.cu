// What: attention of QUERIES queries that share a key head, over one split of their views, by tensor cores; the last split to end merges all.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = rows * group / QUERIES, the last first, y = key heads, z = splits; KEYS tokens at a time, which are copied a step ahead.
// Shared: the queries, and two tiles of keys and two of values (102 KiB for 128 elements).
// Numerics: f32 sums; queries and weights are rounded to f16, or of few queries taken as two f16 each.
//:threads 128
//:variant DIM = 64 | 96 | 128 | 256
//:variant PARTS = 1 | 2
#include "part/attend.cuh"
#include "part/launch.cuh"
#include "part/reduce.cuh"
#include "part/stage.cuh"
#include "part/tensor_core.cuh"

constexpr u32 WARPS = THREADS / WARP;
// Sixteens of queries that a warp takes: two share each read of keys and values. Two parts of one take as many products.
constexpr u32 STRIPS = PARTS == 1 && DIM <= 128 ? 2 : 1;
constexpr u32 WARP_QUERIES = 16 * STRIPS;
constexpr u32 QUERIES = WARPS * WARP_QUERIES;
constexpr u32 KEYS = DIM <= 128 ? 64 : 32;
// Chunks of a row, and from one row to the next: odd, so that eight rows' chunks lie in different banks.
constexpr u32 CHUNKS = DIM / 8;
constexpr u32 PITCH = CHUNKS + 1;
constexpr u32 TILE = KEYS * PITCH;
// The state of a row that another kernel serves.
constexpr u32 ELSEWHERE = 0xffffffffu;

extern __shared__ uint4 shared[];

__device__ inline uint4 f16_chunk(float4 low, float4 high) {
    return make_uint4(f16_pair(low.x, low.y), f16_pair(low.z, low.w), f16_pair(high.x, high.y), f16_pair(high.z, high.w));
}

// The first row from `row` on that starts a run of rows with one view, or `rows` where none does.
__device__ inline u32 next_run(const u32 (&starts)[WARPS], u32 row, u32 rows) {
    for (u32 word = row / WARP; word < WARPS; word++) {
        u32 bits = starts[word] & (word == row / WARP ? ~0u << (row % WARP) : ~0u);
        if (bits != 0) return word * WARP + __ffs(bits) - 1;
    }
    return rows;
}

// octets: chunks of a head. kv_pitch, values: chunks of a slot, and of its keys. lone: whether rows that share no view are served elsewhere.
extern "C" __global__ void __launch_bounds__(THREADS) attend_tile(
    const float4* q, const uint4* kv, const RowDesc* rows, const u32* count, const ViewDesc* views, const u32* entries, float4* out,
    float4* sums, float2* stats, u32 capacity, u32 heads, u32 kv_heads, u32 octets, u32 kv_pitch, u32 values, u32 splits, u32 lone, float scale) {
    // Of two steps.
    __shared__ u32 slots[2][KEYS];
    // Of the block's rows, from its first on: how many tokens each sees, and which start a run of rows with one view.
    __shared__ u32 row_visible[QUERIES];
    __shared__ u32 run_starts[WARPS];
    __shared__ u32 warp_most[WARPS];

    wait_for_inputs();
    release_dependents();
    u32 tile = gridDim.x - 1 - blockIdx.x;
    u32 kv_head = blockIdx.y;
    u32 split = blockIdx.z;
    u32 group = heads / kv_heads;
    u32 first_query = tile * QUERIES;
    u32 first_row = first_query / group;
    u32 row_count = min(*count, capacity);
    if (first_row >= row_count) return;
    u32 block_rows = min((first_query + QUERIES - 1) / group, row_count - 1) - first_row + 1;
    u32 thread = threadIdx.x;
    u32 warp = thread / WARP;
    u32 lane = thread % WARP;
    u32 quads = 2 * octets;

    // Each thread looks at one row.
    bool starts = false, serves = false;
    if (thread < block_rows) {
        u32 row = first_row + thread;
        ViewDesc view = views[rows[row].view];
        starts = thread == 0 || rows[row - 1].view != rows[row].view;
        serves = !lone || !is_lone(rows, row, row_count);
        row_visible[thread] = serves ? view_visible(view, rows[row].position) : ELSEWHERE;
    }
    u32 ballot = __ballot_sync(ALL, starts);
    if (lane == 0) run_starts[warp] = ballot;
    if (!__syncthreads_or(serves)) return;

    // Queries, in units of log2.
    uint4* queries = shared;
    uint4* tiles = shared + PARTS * QUERIES * PITCH;
    for (u32 i = thread; i < QUERIES * CHUNKS; i += THREADS) {
        u32 local = i / CHUNKS;
        u32 chunk = i % CHUNKS;
        u32 row = min((first_query + local) / group, row_count - 1);
        u32 head = kv_head * group + (first_query + local) % group;
        float4 low = make_float4(0.0f, 0.0f, 0.0f, 0.0f), high = low;
        if (chunk < octets) {
            const float4* from = q + (u64(row) * heads + head) * quads + 2 * chunk;
            low = scaled(from[0], scale * LOG2_E);
            high = scaled(from[1], scale * LOG2_E);
        }
        queries[local * PITCH + chunk] = f16_chunk(low, high);
        if (PARTS == 2) queries[(QUERIES + local) * PITCH + chunk] = f16_chunk(minor_part(low), minor_part(high));
    }

    // Where the lane's rows of each operand begin: of queries, of keys as the second factor, of values as the second factor.
    u32 tiles_at = shared_address(tiles);
    u32 query_at = shared_address(queries) + 16 * ((warp * WARP_QUERIES + lane % 16) * PITCH + lane / 16);
    u32 key_at = tiles_at + 16 * ((lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2);
    u32 value_at = tiles_at + 16 * (TILE + lane % 16 * PITCH + lane / 16);
    constexpr u32 STAGE_BYTES = 2 * TILE * 16;
    constexpr u32 ROW_BYTES = PITCH * 16;

    const uint4* head_keys = kv + kv_head * octets;
    auto load = [&](u32 stage) {
#pragma unroll
        for (u32 i = 0; i < KEYS * CHUNKS / THREADS; i++) {
            u32 token = (thread + i * THREADS) / CHUNKS;
            u32 chunk = (thread + i * THREADS) % CHUNKS;
            const uint4* from = head_keys + u64(slots[stage][token]) * kv_pitch + chunk;
            u32 to = tiles_at + stage * STAGE_BYTES + 16 * (token * PITCH + chunk);
            bool present = chunk < octets;
            if (!present) from = head_keys;
            copy_16(to, from, present);
            copy_16(to + 16 * TILE, from + values, present);
        }
    };

    // A lane holds elements 2 * (lane % 4) and the next of every eight, of rows lane / 4 and that 8 further on of each strip: index 0 and 1.
    float sum[STRIPS][CHUNKS][4] = {};
    float reference[STRIPS][2];
    float weight_sum[STRIPS][2] = {};
    // Rows among the block's; beyond them for queries that there are not.
    u32 own_row[STRIPS][2];
#pragma unroll
    for (u32 strip = 0; strip < STRIPS; strip++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            reference[strip][half] = UNSEEN;
            own_row[strip][half] = (first_query + warp * WARP_QUERIES + 16 * strip + 8 * half + lane / 4) / group - first_row;
        }
    }

    // Rows of a chunk read one view and are taken together; each further view among the rows takes another turn.
    __syncthreads();
    u32 run_end = 0;
    for (u32 run = 0; run < block_rows; run = run_end) {
        run_end = next_run(run_starts, run + 1, block_rows);
        ViewDesc view = views[rows[first_row + run].view];
        ViewSlots view_slots(view, entries);
        u32 split_size = split_tokens(view.length, splits, KEYS);
        u32 begin = split * split_size;
        // How many of the view's tokens each of the lane's rows sees, up to the split's end.
        u32 limit[STRIPS][2];
        u32 least = ELSEWHERE, most = 0;
#pragma unroll
        for (u32 strip = 0; strip < STRIPS; strip++) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                u32 row = own_row[strip][half];
                bool takes = row >= run && row < run_end && row_visible[row] != ELSEWHERE;
                limit[strip][half] = takes ? min(row_visible[row], begin + split_size) : 0;
                least = min(least, limit[strip][half]);
                most = max(most, limit[strip][half]);
            }
        }
        least = __reduce_min_sync(ALL, least);
        most = __reduce_max_sync(ALL, most);
        // All have read what the turn before left.
        __syncthreads();
        if (lane == 0) warp_most[warp] = most;
        __syncthreads();
        u32 end = 0;
        for (u32 w = 0; w < WARPS; w++) end = max(end, warp_most[w]);
        if (begin >= end) continue;

        u32 ahead = 0;
        if (thread < KEYS) {
            slots[0][thread] = view_slots[min(begin + thread, end - 1)];
            slots[1][thread] = view_slots[min(begin + KEYS + thread, end - 1)];
            ahead = view_slots[min(begin + 2 * KEYS + thread, end - 1)];
        }
        __syncthreads();
        load(0);
        copies_commit();
        u32 stage = 0;
        for (u32 at = begin; at < end; at += KEYS, stage ^= 1) {
            // The step's tile is there, and all have left the one before.
            copies_wait<0>();
            __syncthreads();
            if (at + KEYS < end) load(stage ^ 1);
            copies_commit();
            if (thread < KEYS) {
                slots[stage][thread] = ahead;
                ahead = view_slots[min(at + 3 * KEYS + thread, end - 1)];
            }
            if (at >= most) continue;

            float score[STRIPS][KEYS / 8][4] = {};
#pragma unroll
            for (u32 k = 0; k < DIM / 16; k++) {
                u32 query[STRIPS * PARTS][4];
#pragma unroll
                for (u32 i = 0; i < STRIPS * PARTS; i++) {
                    load_matrix_x4(query[i], query_at + i * (PARTS == 1 ? 16 : QUERIES) * ROW_BYTES + 32 * k);
                }
#pragma unroll
                for (u32 n = 0; n < KEYS / 16; n++) {
                    u32 keys[4];
                    load_matrix_x4(keys, key_at + stage * STAGE_BYTES + n * 16 * ROW_BYTES + 32 * k);
#pragma unroll
                    for (u32 i = 0; i < STRIPS * PARTS; i++) {
                        multiply_16x8x16(score[i / PARTS][2 * n], query[i], keys[0], keys[1]);
                        multiply_16x8x16(score[i / PARTS][2 * n + 1], query[i], keys[2], keys[3]);
                    }
                }
            }

            float largest[STRIPS][2];
            bool grows = false;
#pragma unroll
            for (u32 strip = 0; strip < STRIPS; strip++) {
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    if (at + KEYS > least) {
#pragma unroll
                        for (u32 i = 0; i < KEYS / 4; i++) {
                            u32 token = at + i / 2 * 8 + 2 * (lane % 4) + i % 2;
                            if (token >= limit[strip][half]) score[strip][i / 2][2 * half + i % 2] = LEAST;
                        }
                    }
                    float highest = LEAST;
#pragma unroll
                    for (u32 i = 0; i < KEYS / 4; i++) highest = fmaxf(highest, score[strip][i / 2][2 * half + i % 2]);
                    largest[strip][half] = highest;
                    grows |= highest > reference[strip][half] + SLACK;
                }
            }
            if (__any_sync(ALL, grows)) {
#pragma unroll
                for (u32 strip = 0; strip < STRIPS; strip++) {
#pragma unroll
                    for (u32 half = 0; half < 2; half++) {
                        float highest = largest[strip][half];
                        highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, 1));
                        highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, 2));
                        float old = reference[strip][half];
                        float fresh = highest > old + SLACK ? highest : old;
                        float keep = power_of_two(old - fresh);
                        reference[strip][half] = fresh;
                        weight_sum[strip][half] *= keep;
#pragma unroll
                        for (u32 i = 0; i < 2 * CHUNKS; i++) sum[strip][i / 2][2 * half + i % 2] *= keep;
                    }
                }
            }
            // Sixteen tokens at a time: scores become weights, which are the first factor.
#pragma unroll
            for (u32 k = 0; k < KEYS / 16; k++) {
                u32 weights[STRIPS * PARTS][4];
#pragma unroll
                for (u32 strip = 0; strip < STRIPS; strip++) {
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        u32 half = i % 2;
                        float (&pair)[4] = score[strip][2 * k + i / 2];
                        float low = power_of_two(pair[2 * half] - reference[strip][half]);
                        float high = power_of_two(pair[2 * half + 1] - reference[strip][half]);
                        weight_sum[strip][half] += low + high;
                        weights[strip * PARTS][i] = half_pair(low, high);
                        if (PARTS == 2) weights[strip * PARTS + 1][i] = half_pair(minor_part(low), minor_part(high));
                    }
                }
#pragma unroll
                for (u32 n = 0; n < DIM / 16; n++) {
                    u32 with[4];
                    load_matrix_x4_trans(with, value_at + stage * STAGE_BYTES + k * 16 * ROW_BYTES + 32 * n);
#pragma unroll
                    for (u32 i = 0; i < STRIPS * PARTS; i++) {
                        multiply_16x8x16(sum[i / PARTS][2 * n], weights[i], with[0], with[1]);
                        multiply_16x8x16(sum[i / PARTS][2 * n + 1], weights[i], with[2], with[3]);
                    }
                }
            }
        }
    }

    float2* whole = reinterpret_cast<float2*>(out);
    float2* partial = reinterpret_cast<float2*>(sums);
#pragma unroll
    for (u32 strip = 0; strip < STRIPS; strip++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float total = weight_sum[strip][half];
            total += __shfl_xor_sync(ALL, total, 1);
            total += __shfl_xor_sync(ALL, total, 2);
            u32 row = own_row[strip][half];
            if (row >= block_rows || row_visible[row] == ELSEWHERE) continue;
            u32 head = kv_head * group + (first_query + warp * WARP_QUERIES + 16 * strip + 8 * half + lane / 4) % group;
            u64 query = u64(first_row + row) * heads + head;
            u64 place = splits == 1 ? query : query * splits + split;
            float by = splits == 1 ? 1.0f / fmaxf(total, LEAST_WEIGHT) : 1.0f;
            float2* to = (splits == 1 ? whole : partial) + place * 4 * octets + lane % 4;
#pragma unroll
            for (u32 n = 0; n < CHUNKS; n++) {
                if (n < octets) to[4 * n] = make_float2(by * sum[strip][n][2 * half], by * sum[strip][n][2 * half + 1]);
            }
            if (splits > 1 && lane % 4 == 0) stats[place] = make_float2(reference[strip][half], total);
        }
    }
    if (splits == 1 || !is_last_block(tile * kv_heads + kv_head, splits)) return;
    for (u32 i = thread; i < QUERIES * quads; i += THREADS) {
        u32 index = first_query + i / quads;
        u32 row = index / group;
        if (row >= first_row + block_rows || row_visible[row - first_row] == ELSEWHERE) continue;
        u64 query = u64(row) * heads + kv_head * group + index % group;
        out[query * quads + i % quads] = merge_splits(sums, stats, query, splits, splits, quads, i % quads);
    }
}
