// What: attention of one row's up to QUERIES query heads that share a key head, over one split of its view; the last split to end merges all.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = splits, each of rows * key heads * blocks of QUERIES query heads, and any number of blocks beyond; a warp takes 16 tokens at a time.
// Shared: dynamic: a ring of 8 or 12 KiB for each warp, for keys and values, and then for what warps merge; up to 8 KiB for queries.
// Numerics: f32 sums; queries and weights are taken as two f16 each.
//:threads 256
//:variant DIM = 64 | 128 | 256 | 512
//:variant WHOLE = true | false
//:variant QUERIES = 4 | 8
#include "part/attend.cuh"
#include "part/launch.cuh"
#include "part/reduce.cuh"
#include "part/stage.cuh"
#include "part/tensor_core.cuh"

constexpr u32 WARPS = THREADS / WARP;
// Tokens of a warp's step.
constexpr u32 TOKENS = 16;
constexpr u32 STEP = WARPS * TOKENS;
// Elements of a head whose keys, or values, are copied at once for all tokens of a step, the chunks of a token, and those of all.
constexpr u32 SLICE = DIM < 128 ? DIM : 128;
constexpr u32 SLICES = DIM / SLICE;
constexpr u32 SLICE_CHUNKS = SLICE / 8;
constexpr u32 UNIT = TOKENS * SLICE_CHUNKS;
// Units of a warp that are under way: launch/attend_split.rs reserves their memory.
constexpr u32 STAGES = DIM == 64 ? 6 : DIM == 128 ? 3 : 2;
// Elements that a product of 16 rows or 16 columns takes.
constexpr u32 TILE = 16;
// Scores and weights of a token that a lane holds. Products have eight columns: of four queries each one's larger and smaller part; of eight the
// larger parts, and the smaller ones take products of their own.
constexpr u32 OWN = QUERIES / 4;
constexpr bool BOTH_PARTS = QUERIES == 4;
// Floats from one query's sums to the next in shared memory.
constexpr u32 PART_PITCH = SLICE + 8;

// The element of a product's row that belongs to one of the lane's queries.
__device__ inline float own_sum(float first, float second, u32 own) {
    if (BOTH_PARTS) return first + second;
    return own == 0 ? first : second;
}

// A warp's copies into its ring: of each step the keys by slice, then the values by slice.
struct Stream {
    const uint4 *head_keys, *head_values;
    ViewSlots slots;
    u32 kv_pitch, octets, end;
    // The ring's address in shared memory.
    u32 ring;
    // What is copied next: a step by its first token, and a slice; and where this step's tokens lie, and the next one's, of lane % TOKENS each.
    u32 at, slice, places, later_places;

    __device__ u32 place(u32 from) const { return slots[min(from + threadIdx.x % TOKENS, end - 1)]; }

    __device__ void begin(u32 first) {
        at = first;
        slice = 0;
        if (at >= end) return;
        places = place(at);
        later_places = place(at + STEP);
    }

    // Starts the copies of a unit, where one is left. Of tokens beyond the end the last is copied again. Chunks lie so that those of eight tokens at
    // one place of a head are in different banks.
    __device__ void start(u32 stage) {
        if (at < end) {
            bool is_value = slice >= SLICES;
            const uint4* from = is_value ? head_values : head_keys;
            u32 first_chunk = (is_value ? slice - SLICES : slice) * SLICE_CHUNKS;
            u32 lane = threadIdx.x % WARP;
#pragma unroll
            for (u32 i = 0; i < UNIT / WARP; i++) {
                u32 token = (i * WARP + lane) / SLICE_CHUNKS, chunk = lane % SLICE_CHUNKS;
                u32 source = first_chunk + chunk;
                const uint4* row = from + u64(__shfl_sync(ALL, places, token)) * kv_pitch;
                u32 to = stage * UNIT + token * SLICE_CHUNKS + (chunk ^ (token % 8));
                copy_16(ring + 16 * to, row + (WHOLE ? source : min(source, octets - 1)), true);
            }
            if (++slice == 2 * SLICES) {
                slice = 0;
                at += STEP;
                places = later_places;
                later_places = place(at + STEP);
            }
        }
        copies_commit();
    }
};

// octets: chunks of a head. kv_pitch, values: chunks of a slot, and of its keys. lone: whether rows that share a view are served elsewhere. slots,
// view_rows, entry_count: how many there are.
extern "C" __global__ void __launch_bounds__(THREADS, DIM <= 128 ? 2 : 1) attend_split(
    const float4* q, const uint4* kv, const RowDesc* rows, const u32* count, const ViewDesc* views, const u32* entries, float4* out,
    float4* sums, float2* stats, u32 capacity, u32 heads, u32 kv_heads, u32 blocks, u32 octets, u32 kv_pitch, u32 values, u32 splits, u32 lone,
    u32 slots, u32 view_rows, u32 entry_count, float scale) {
    // The warps' rings, and then what they merge.
    extern __shared__ uint4 memory[];
    // What a warp's weights of a query refer to, and their sum.
    __shared__ float2 warp_stats[WARPS][QUERIES];
    // Smaller parts of eight queries, as the lanes hold the larger ones.
    __shared__ uint2 minor_queries[BOTH_PARTS ? 1 : DIM / TILE][WARP];

    release_dependents();
    u32 groups = capacity * kv_heads * blocks;
    u32 place = blockIdx.x % groups;
    u32 split = blockIdx.x / groups;
    u32 row = place / (kv_heads * blocks);
    u32 kv_head = place / blocks % kv_heads;
    u32 block = place % blocks;
    u32 group = heads / kv_heads;
    u32 first_head = kv_head * group + block * QUERIES;
    u32 block_queries = min(group - block * QUERIES, QUERIES);
    const uint4* head_keys = kv + kv_head * octets;
    const uint4* head_values = head_keys + values;

    // What the first step will likely read comes into the second cache. Tables may yet change, so nothing else relies on them. Most rows of a launch
    // beside another kernel's have nothing to read.
    if (!lone) {
        ViewDesc view = load_again(views + min(load_again(&rows[row].view), view_rows - 1));
        Share share(view, load_again(&rows[row].position), splits, split, TOKENS);
        u32 token = share.begin + threadIdx.x / 2;
        if (token < share.end) {
            u32 run_bits = __ffs(view.run) - 1;
            u32 entry = load_again(entries + min(view.first + (token >> run_bits), entry_count - 1));
            u32 slot = min(entry_index(entry) << run_bits | (token & ((1u << run_bits) - 1u)), slots - 1);
            prefetch((threadIdx.x % 2 ? head_values : head_keys) + u64(slot) * kv_pitch, 16 * octets);
        }
    }
    wait_for_inputs();
    u32 row_count = min(load_again(count), capacity);
    u32 view_index = load_again(&rows[row].view);
    u32 position = load_again(&rows[row].position);
    if (row >= row_count || (lone && !is_lone(rows, row, row_count))) return;
    ViewDesc view = load_again(views + view_index);
    Share share(view, position, splits, split, TOKENS);
    u32 used = share.used;
    if (split >= used) return;
    u32 end = share.end;

    u32 warp = threadIdx.x / WARP;
    u32 lane = threadIdx.x % WARP;
    // A lane's place in the operands of products.
    u32 line = lane / 4;
    u32 pair = lane % 4;
    u64 query_row = u64(row) * heads + first_head;
    u32 quads = 2 * octets;
    u32 at = share.begin + warp * TOKENS;
    Stream stream = {head_keys, head_values, ViewSlots(view, entries), kv_pitch, octets, end, shared_address(memory + warp * STAGES * UNIT)};
    stream.begin(at);
#pragma unroll
    for (u32 i = 0; i < STAGES; i++) stream.start(i);

    // Queries as the second factor.
    u32 query[DIM / TILE][2];
    u32 column_query = BOTH_PARTS ? line / 2 : line;
    const float2* query_pairs = reinterpret_cast<const float2*>(q + (query_row + column_query) * quads);
#pragma unroll
    for (u32 i = 0; i < DIM / TILE; i++) {
        uint2 minors;
#pragma unroll
        for (u32 j = 0; j < 2; j++) {
            u32 element = TILE * i + 8 * j + 2 * pair;
            float2 value = make_float2(0.0f, 0.0f);
            if (column_query < block_queries && element < 8 * octets) value = query_pairs[element / 2];
            value = make_float2(value.x * scale * LOG2_E, value.y * scale * LOG2_E);
            float2 minor = make_float2(minor_part(value.x), minor_part(value.y));
            if (BOTH_PARTS && line % 2 == 1) value = minor;
            query[i][j] = f16_pair(value.x, value.y);
            (j == 0 ? minors.x : minors.y) = f16_pair(minor.x, minor.y);
        }
        if (!BOTH_PARTS && warp == 0) minor_queries[i][lane] = minors;
    }
    if (!BOTH_PARTS) __syncthreads();

    // Where a lane's row of the operands begins in a unit, and its chunk of the first tile: part/tensor_core.cuh.
    constexpr u32 ROW_BYTES = 16 * SLICE_CHUNKS;
    u32 key_row = stream.ring + lane % 16 * ROW_BYTES, key_chunk = lane / 16;
    u32 value_row = stream.ring + (lane % 8 + lane / 16 * 8) * ROW_BYTES, value_chunk = lane / 8 % 2;
    u32 stage = 0;
    auto await_unit = [&] {
        copies_wait<STAGES - 1>();
        __syncwarp();
    };
    auto next_unit = [&] {
        __syncwarp();
        stream.start(stage);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    };

    // Of elements `line` and `line + 8` of each tile, for the columns 2 * pair and the next.
    float sum[DIM / TILE][4] = {};
    float reference[OWN];
    float weight_sum[OWN] = {};
#pragma unroll
    for (u32 own = 0; own < OWN; own++) reference[own] = UNSEEN;

    for (; at < end; at += STEP) {
        float product[4] = {};
#pragma unroll
        for (u32 slice = 0; slice < SLICES; slice++) {
            await_unit();
#pragma unroll
            for (u32 i = 0; i < SLICE / TILE; i++) {
                u32 keys[4];
                load_matrix_x4(keys, key_row + 16 * (stage * UNIT + ((2 * i + key_chunk) ^ (lane % 8))));
                u32 tile = slice * (SLICE / TILE) + i;
                multiply_16x8x16(product, keys, query[tile][0], query[tile][1]);
                if (!BOTH_PARTS) {
                    uint2 minor = minor_queries[tile][lane];
                    multiply_16x8x16(product, keys, minor.x, minor.y);
                }
            }
            next_unit();
        }

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
            for (u32 i = 0; i < DIM / 4; i++) sum[i / 4][i % 4] *= keep[OWN == 1 ? 0 : i % 2];
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
            await_unit();
#pragma unroll
            for (u32 j = 0; j < SLICE / TILE; j++) {
                u32 factor[4];
                load_matrix_x4_trans(factor, value_row + 16 * (stage * UNIT + ((2 * j + value_chunk) ^ (lane % 8))));
                float (&of)[4] = sum[slice * (SLICE / TILE) + j];
                multiply_16x8x16(of, factor, weights[0], weights[1]);
                if (!BOTH_PARTS) multiply_16x8x16(of, factor, minor_weights[0], minor_weights[1]);
            }
            next_unit();
        }
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
    // All rings are read, and no copy is under way: beyond the end none was started.
    float* parts = reinterpret_cast<float*>(memory);
#pragma unroll
    for (u32 slice = 0; slice < SLICES; slice++) {
        // All have read what the slice before left.
        if (slice > 0) __syncthreads();
#pragma unroll
        for (u32 own = 0; own < OWN; own++) {
            float* to = parts + (warp * QUERIES + pair * OWN + own) * PART_PITCH + line;
#pragma unroll
            for (u32 j = 0; j < SLICE / TILE; j++) {
                float (&of)[4] = sum[slice * (SLICE / TILE) + j];
                to[TILE * j] = factor[own] * own_sum(of[0], of[1], own);
                to[TILE * j + 8] = factor[own] * own_sum(of[2], of[3], own);
            }
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < block_queries * (SLICE / 4); i += THREADS) {
            u32 of = i / (SLICE / 4);
            u32 within = i % (SLICE / 4);
            u32 quad = slice * (SLICE / 4) + within;
            if (!WHOLE && quad >= quads) continue;
            float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (u32 w = 0; w < WARPS; w++) {
                float4 part = *reinterpret_cast<const float4*>(parts + (w * QUERIES + of) * PART_PITCH + 4 * within);
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
    if (!is_last_block(place, used)) return;
    for (u32 i = threadIdx.x; i < block_queries * quads; i += THREADS) {
        u64 of = query_row + i / quads;
        out[of * quads + i % quads] = merge_splits(sums, stats, of, splits, used, quads, i % quads);
    }
}
