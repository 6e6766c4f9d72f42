// What: attention of 128 queries that share a key head over their whole views, by warpgroups: one copies keys and values, two multiply in turns.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = rows * group / QUERIES, y = key heads, taken by tiles, the last first; KEYS tokens at a time, which are copied up to two steps ahead.
// Shared: the queries, two tiles of keys and two of values (160 KiB for 128 elements), from a multiple of 1024 bytes on.
// Numerics: f32 sums; queries and weights are rounded to f16.
//:threads 384
//:variant DIM = 64 | 128
//:least 90
#include "part/attend.cuh"
#include "part/launch.cuh"
#include "part/reduce.cuh"
#include "part/stage.cuh"
#include "part/tensor_core.cuh"
#include "part/warpgroup.cuh"

constexpr u32 WARPGROUP = 128;
// Warpgroups that multiply, and what each of them takes.
constexpr u32 MULTIPLIERS = 2;
constexpr u32 GROUP_QUERIES = 64;
constexpr u32 QUERIES = MULTIPLIERS * GROUP_QUERIES;
constexpr u32 KEYS = 128;
constexpr u32 STAGES = 2;
constexpr u32 CHUNKS = DIM / 8;
// Matrices lie in panels of 64 elements.
constexpr u32 PANELS = DIM / 64;
constexpr u32 ROW_BYTES = 128;
constexpr u32 QUERY_PANEL = GROUP_QUERIES * ROW_BYTES;
constexpr u32 KEY_PANEL = KEYS * ROW_BYTES;
constexpr u32 TILE_BYTES = PANELS * KEY_PANEL;
constexpr u32 KEYS_AT = QUERIES * CHUNKS * 16;
constexpr u32 VALUES_AT = KEYS_AT + STAGES * TILE_BYTES;
// The state of a row that another kernel serves.
constexpr u32 ELSEWHERE = 0xffffffffu;
// Named barriers: of a multiplier's own, and of whose turn it is.
constexpr u32 OWN_BARRIER = 1;
constexpr u32 TURN_BARRIER = OWN_BARRIER + MULTIPLIERS;

extern __shared__ uint4 shared[];

// Barriers of the stages of keys and of values: when they are there, and when they are no longer needed.
struct Barriers {
    u64 keys_full[STAGES], keys_free[STAGES], values_full[STAGES], values_free[STAGES];
};

// The stage of a step, and the parity of its use.
__device__ inline u32 stage_of(u32 step) { return step % STAGES; }
__device__ inline u32 parity_of(u32 step) { return step / STAGES % 2; }

// The first row from `row` on that starts a run of rows with one view, or `rows` where none does.
__device__ inline u32 next_run(const u32 (&starts)[QUERIES / WARP], u32 row, u32 rows) {
    for (u32 word = row / WARP; word < QUERIES / WARP; word++) {
        u32 bits = starts[word] & (word == row / WARP ? ~0u << (row % WARP) : ~0u);
        if (bits != 0) return word * WARP + __ffs(bits) - 1;
    }
    return rows;
}

// Tokens that the rows of a run see at most.
__device__ inline u32 run_most(const u32* row_visible, u32 run, u32 run_end) {
    u32 most = 0;
    for (u32 row = run + threadIdx.x % WARP; row < run_end; row += WARP) {
        if (row_visible[row] != ELSEWHERE) most = max(most, row_visible[row]);
    }
    return __reduce_max_sync(ALL, most);
}

// Starts to copy the rows of a warp's 32 tokens, of which each lane knows one's slot.
__device__ inline void copy_rows(u32 tile, const uint4* from, u32 slot, u32 kv_pitch) {
    constexpr u32 ROWS = WARP / CHUNKS;
    u32 lane = threadIdx.x % WARP;
    u32 row = lane / CHUNKS, chunk = lane % CHUNKS;
    u32 to = tile + chunk / 8 * KEY_PANEL + (threadIdx.x % WARPGROUP / WARP * WARP + row) * ROW_BYTES;
    u32 place = (chunk ^ row) % 8;
    from += chunk;
#pragma unroll
    for (u32 i = 0; i < WARP / ROWS; i++) {
        u32 row_slot = __shfl_sync(ALL, slot, i * ROWS + row);
        copy_16(to + i * ROWS * ROW_BYTES + 16 * (place ^ i * ROWS % 8), from + u64(row_slot) * kv_pitch, true);
    }
}

// kv_pitch, values: chunks of a slot, and of its keys. lone: whether rows that share no view are served elsewhere.
extern "C" __global__ void __launch_bounds__(THREADS, 1) attend_warpgroup(
    const float4* q, const uint4* kv, const RowDesc* rows, const u32* count, const ViewDesc* views, const u32* entries, float4* out,
    u32 capacity, u32 heads, u32 kv_heads, u32 kv_pitch, u32 values, u32 lone, float scale) {
    __shared__ Barriers barriers;
    // Of the block's rows, from its first on: how many tokens each sees, and which start a run of rows with one view.
    __shared__ u32 row_visible[QUERIES];
    __shared__ u32 run_starts[QUERIES / WARP];

    u32 thread = threadIdx.x;
    u32 lane = thread % WARP;
    if (thread == 0) {
        for (u32 stage = 0; stage < STAGES; stage++) {
            barrier_init(shared_address(&barriers.keys_full[stage]), WARPGROUP);
            barrier_init(shared_address(&barriers.values_full[stage]), WARPGROUP);
            barrier_init(shared_address(&barriers.keys_free[stage]), MULTIPLIERS * WARPGROUP / WARP);
            barrier_init(shared_address(&barriers.values_free[stage]), MULTIPLIERS * WARPGROUP / WARP);
        }
    }
    wait_for_inputs();
    // Blocks that start together see about as many tokens, whatever their key head, and those that see the fewest come last.
    u32 block = blockIdx.y * gridDim.x + blockIdx.x;
    u32 tile = gridDim.x - 1 - block / kv_heads;
    u32 kv_head = block % kv_heads;
    u32 group = heads / kv_heads;
    u32 first_query = tile * QUERIES;
    u32 first_row = first_query / group;
    u32 row_count = min(*count, capacity);
    if (first_row >= row_count) return;
    u32 block_rows = min((first_query + QUERIES - 1) / group, row_count - 1) - first_row + 1;

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
    if (lane == 0 && thread < QUERIES) run_starts[thread / WARP] = ballot;
    if (!__syncthreads_or(serves)) return;

    u32 memory = round_up(shared_address(shared), 1024);
    // The same for all lanes, which the compiler is to know.
    u32 warpgroup = __shfl_sync(ALL, thread / WARPGROUP, 0);
    if (warpgroup == MULTIPLIERS) {
        registers_give<40>();
        const uint4* head_keys = kv + kv_head * CHUNKS;
        u32 step = 0;
        u32 run_end = 0;
        for (u32 run = 0; run < block_rows; run = run_end) {
            run_end = next_run(run_starts, run + 1, block_rows);
            u32 end = run_most(row_visible, run, run_end);
            if (end == 0) continue;
            ViewSlots view_slots(views[rows[first_row + run].view], entries);
            u32 token = thread % WARPGROUP;
            u32 key_slot = view_slots[min(token, end - 1)];
            u32 value_slot = 0;
            // Keys are needed a step before values.
            for (u32 at = 0; at < end + KEYS; at += KEYS, step++) {
                u32 next_slot = view_slots[min(at + KEYS + token, end - 1)];
                if (at < end) {
                    barrier_wait(shared_address(&barriers.keys_free[stage_of(step)]), parity_of(step) ^ 1);
                    copy_rows(memory + KEYS_AT + stage_of(step) * TILE_BYTES, head_keys, key_slot, kv_pitch);
                    barrier_arrive_after_copies(shared_address(&barriers.keys_full[stage_of(step)]));
                }
                if (at > 0) {
                    u32 before = step - 1;
                    barrier_wait(shared_address(&barriers.values_free[stage_of(before)]), parity_of(before) ^ 1);
                    copy_rows(memory + VALUES_AT + stage_of(before) * TILE_BYTES, head_keys + values, value_slot, kv_pitch);
                    barrier_arrive_after_copies(shared_address(&barriers.values_full[stage_of(before)]));
                }
                value_slot = key_slot;
                key_slot = next_slot;
            }
            step--;
        }
        return;
    }

    registers_take<232>();
    u32 group_query = first_query + warpgroup * GROUP_QUERIES;
    u32 query_at = memory + warpgroup * GROUP_QUERIES * CHUNKS * 16;
    // Queries, in units of log2.
#pragma unroll 4
    for (u32 i = thread % WARPGROUP; i < GROUP_QUERIES * CHUNKS; i += WARPGROUP) {
        u32 local = i / CHUNKS;
        u32 chunk = i % CHUNKS;
        u32 row = min((group_query + local) / group, row_count - 1);
        u32 head = kv_head * group + (group_query + local) % group;
        const float4* from = q + (u64(row) * heads + head) * (2 * CHUNKS) + 2 * chunk;
        float4 low = scaled(from[0], scale * LOG2_E);
        float4 high = scaled(from[1], scale * LOG2_E);
        u32 to = query_at + chunk / 8 * QUERY_PANEL + local * ROW_BYTES + 16 * ((chunk ^ local) % 8);
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(f16_pair(low.x, low.y)), "r"(f16_pair(low.z, low.w)),
                     "r"(f16_pair(high.x, high.y)), "r"(f16_pair(high.z, high.w)) : "memory");
    }
    show_to_products();
    named_sync<WARPGROUP>(OWN_BARRIER + warpgroup);

    // A lane holds elements 2 * (lane % 4) and the next of every eight, of row lane / 4 of its warp's and that 8 further on: index 0 and 1.
    float sum[DIM / 2] = {};
    float score[KEYS / 2];
    u32 weights[KEYS / 4];
    float reference[2] = {UNSEEN, UNSEEN};
    float weight_sum[2] = {};
    // Rows among the block's; beyond them for queries that there are not.
    u32 own_row[2];
#pragma unroll
    for (u32 half = 0; half < 2; half++) own_row[half] = (group_query + thread % WARPGROUP / WARP * 16 + 8 * half + lane / 4) / group - first_row;

    u64 query_matrix = matrix_descriptor(query_at, QUERY_PANEL);
    u64 key_matrix = matrix_descriptor(memory + KEYS_AT, KEY_PANEL);
    u64 value_matrix = matrix_descriptor(memory + VALUES_AT, KEY_PANEL);
    auto start_scores = [&](u32 step) {
        barrier_wait(shared_address(&barriers.keys_full[stage_of(step)]), parity_of(step));
        show_to_products();
        u64 keys = key_matrix + stage_of(step) * (TILE_BYTES / 16);
#pragma unroll
        for (u32 k = 0; k < DIM / 16; k++) {
            u32 within = k % 4 * 2;
            start_product(score, query_matrix + (k / 4 * (QUERY_PANEL / 16) + within), keys + (k / 4 * (KEY_PANEL / 16) + within), k > 0);
        }
        products_commit();
    };
    auto start_sums = [&](u32 step) {
        barrier_wait(shared_address(&barriers.values_full[stage_of(step)]), parity_of(step));
        show_to_products();
        u64 rows_of_values = value_matrix + stage_of(step) * (TILE_BYTES / 16);
#pragma unroll
        for (u32 k = 0; k < KEYS / 16; k++) {
            start_product(sum, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2], weights[4 * k + 3], rows_of_values + k * (16 * ROW_BYTES / 16));
        }
        products_commit();
    };

    // Turns: the first multiplier starts, and each lets the other start products once its own have.
    if (warpgroup == 1) named_arrive<MULTIPLIERS * WARPGROUP>(TURN_BARRIER);
    u32 step = 0;
    u32 run_end = 0;
    for (u32 run = 0; run < block_rows; run = run_end) {
        run_end = next_run(run_starts, run + 1, block_rows);
        u32 end = run_most(row_visible, run, run_end);
        if (end == 0) continue;
        // How many of the view's tokens each of the lane's rows sees.
        u32 limit[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = own_row[half];
            bool takes = row >= run && row < run_end && row_visible[row] != ELSEWHERE;
            limit[half] = takes ? row_visible[row] : 0;
        }
        u32 least = __reduce_min_sync(ALL, min(limit[0], limit[1]));

        // Scores become weights. Returns whether what they refer to has changed, so that `sum` is to be multiplied by `keep`.
        float keep[2];
        auto weigh = [&](u32 at) {
            if (at + KEYS > least) {
#pragma unroll
                for (u32 i = 0; i < KEYS / 2; i++) {
                    u32 token = at + i / 4 * 8 + 2 * (lane % 4) + i % 2;
                    if (token >= limit[i / 2 % 2]) score[i] = LEAST;
                }
            }
            float largest[2] = {LEAST, LEAST};
#pragma unroll
            for (u32 i = 0; i < KEYS / 2; i++) largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], score[i]);
            bool grows = __any_sync(ALL, largest[0] > reference[0] + SLACK || largest[1] > reference[1] + SLACK);
            if (grows) {
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    float highest = largest[half];
                    highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, 1));
                    highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, 2));
                    float old = reference[half];
                    float fresh = highest > old + SLACK ? highest : old;
                    keep[half] = power_of_two(old - fresh);
                    reference[half] = fresh;
                    weight_sum[half] *= keep[half];
                }
            }
#pragma unroll
            for (u32 i = 0; i < KEYS / 2; i++) {
                score[i] = power_of_two(score[i] - reference[i / 2 % 2]);
                weight_sum[i / 2 % 2] += score[i];
            }
            return grows;
        };
        auto settle = [&](bool grows) {
            if (grows) {
#pragma unroll
                for (u32 i = 0; i < DIM / 2; i++) sum[i] *= keep[i / 2 % 2];
            }
#pragma unroll
            for (u32 i = 0; i < KEYS / 4; i++) weights[i] = half_pair(score[2 * i], score[2 * i + 1]);
        };
        auto release = [&](u64 (&free)[STAGES], u32 step) {
            if (lane == 0) barrier_arrive(shared_address(&free[stage_of(step)]));
        };

        products_fence();
        start_scores(step);
        products_wait<0>(score);
        release(barriers.keys_free, step);
        settle(weigh(0));
        for (u32 at = KEYS; at < end; at += KEYS) {
            step++;
            named_sync<MULTIPLIERS * WARPGROUP>(TURN_BARRIER + warpgroup);
            products_fence();
            start_scores(step);
            start_sums(step - 1);
            named_arrive<MULTIPLIERS * WARPGROUP>(TURN_BARRIER + (warpgroup ^ 1));
            products_wait<1>(score);
            release(barriers.keys_free, step);
            bool grows = weigh(at);
            products_wait<0>(sum);
            release(barriers.values_free, step - 1);
            settle(grows);
        }
        products_fence();
        start_sums(step);
        products_wait<0>(sum);
        release(barriers.values_free, step);
        step++;
    }
    // The arrival of the last turn.
    if (warpgroup == 0) named_sync<MULTIPLIERS * WARPGROUP>(TURN_BARRIER);
    release_dependents();

    float2* result = reinterpret_cast<float2*>(out);
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float total = weight_sum[half];
        total += __shfl_xor_sync(ALL, total, 1);
        total += __shfl_xor_sync(ALL, total, 2);
        u32 row = own_row[half];
        if (row >= block_rows || row_visible[row] == ELSEWHERE) continue;
        u32 head = kv_head * group + (group_query + thread % WARPGROUP / WARP * 16 + 8 * half + lane / 4) % group;
        float by = 1.0f / fmaxf(total, LEAST_WEIGHT);
        float2* to = result + (u64(first_row + row) * heads + head) * (DIM / 2) + lane % 4;
#pragma unroll
        for (u32 n = 0; n < CHUNKS; n++) to[4 * n] = make_float2(by * sum[4 * n + 2 * half], by * sum[4 * n + 2 * half + 1]);
    }
}
