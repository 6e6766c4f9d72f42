// What: restored rows from the latents that `restore_latents` left: decoder * z added to bases or exact rows, keys normalised and turned, as f16.
// Contract: engine/contract/src/op/restore.rs
// Grid: x = tiles of 32 to 128 rows (64 of what is missing) and the whole heads of 128 columns, those of the same rows one after another; tiles beyond the last row leave.
// Shared: 4 or 3 steps of 64 columns of latents and decoder, over which rows pass from the product to the rotation (128 or 72 KiB); 17 or 9 KiB for
// where rows lie.
// Numerics: products of f16 with sums in f32; bases and rotation in f32; one rounding to f16. Rows that are stored exactly stay exact.
//:threads 256
//:variant NAMING = EVERY | LISTED | MISSING
#include "part/launch.cuh"
#include "part/place.cuh"
#include "part/rotation.cuh"
#include "part/stage.cuh"
#include "part/tensor_core.cuh"

// The largest tile, and the warps along its columns; along its rows two of them take 16 rows in turn. What is missing is restored beside other
// kernels, which leave half of a multiprocessor.
constexpr bool IS_BESIDE = NAMING == MISSING;
constexpr u32 MOST_ROWS = IS_BESIDE ? 64 : 128;
constexpr u32 OUTPUTS = 128;
constexpr u32 WARPS_ACROSS = 4;
constexpr u32 DOWN = MOST_ROWS / 32;
constexpr u32 ACROSS = OUTPUTS / WARPS_ACROSS / 8;
constexpr u32 STAGES = IS_BESIDE ? 3 : 4;
// As `matmul_tile` has them: chunk c of row r of a step lies at c ^ r % 8.
constexpr u32 STEP_CHUNKS = 8;
constexpr u32 ROW_BYTES = 16 * STEP_CHUNKS;
constexpr u32 DEPTH = STEP_CHUNKS / 2;
constexpr u32 INPUT_BYTES = MOST_ROWS * ROW_BYTES;
constexpr u32 WEIGHTS_AT = STAGES * INPUT_BYTES;
constexpr u32 WEIGHT_BYTES = OUTPUTS * ROW_BYTES;
// Threads that seek a row, and that have its elements; the latter take 32 rows at a time.
constexpr u32 SEEKERS = THREADS / MOST_ROWS;
constexpr u32 TEAM = 8;
constexpr u32 PASS = THREADS / TEAM;
constexpr u32 PASSES = MOST_ROWS / PASS;
constexpr u32 QUADS = OUTPUTS / 4 / TEAM;
// Elements from one row to the next between product and rotation: 8 more than there are, so that rows lie in different banks.
constexpr u32 PITCH = OUTPUTS + 8;

static_assert(PASS == 32 && MOST_ROWS * PITCH * 4 <= STAGES * (INPUT_BYTES + WEIGHT_BYTES), "tiles are whole passes, and fit");

// Where a row goes, and what it is made of.
struct Target {
    u32 position;
    u32 slot;
    u32 sources;
    bool is_coded;
};

// A float4 of the sum of two.
__device__ inline float4 sum_of(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// capacity: rows at most. octets: of a row of z and of the decoder. mean_rows: 2 where coded tokens have an offset. words: words of a record.
// blocks_only: whether raw tokens are left to `restore_raw`. tile_heads: heads of a tile. bands: tiles of rows that keep the device busy. slots: rows of kv. rope_pitch, kv_pitch: elements of a row.
extern "C" __global__ void __launch_bounds__(THREADS, IS_BESIDE ? 2 : 1) restore_rows(
    const u32* tokens, const StoreDesc* stores, const u32* entries, const u32* count, const u32* raw, const float4* mean, const u32* latents,
    const uint4* z, const uint4* decoder, const float* norm, const float* table, f16* kv,
    u32 capacity, u32 first, u32 pitch, u32 tokens_pitch, u32 mean_rows, u32 neighbours, u32 cols, u32 octets, u32 words, u32 stride,
    u32 references, u32 exact_words, u32 exact_f16, u32 ordinals_at, u32 ordinal_words, u32 escapes_at, u32 escapes,
    u32 heads, u32 head_dim, u32 tile_heads, u32 bands, u32 table_rows, u32 rope_pitch, u32 kv_pitch, u32 slots, u32 blocks_only,
    float epsilon) {
    extern __shared__ uint4 memory[];
    __shared__ ExactRow room[MOST_ROWS][MOST_NEIGHBOURS];
    __shared__ Target targets[MOST_ROWS];
    // `restore_latents` has waited for everything but the latents.
    u32 rows = min(*count, capacity);
    u32 tile_rows = min(round_up(max(ceil_div(rows, bands), 1u), PASS), MOST_ROWS);
    u32 column_tiles = ceil_div(heads, tile_heads);
    u32 tile_row = blockIdx.x / column_tiles * tile_rows;
    if (tile_row >= rows) {
        wait_for_inputs();
        return;
    }
    u32 first_head = blockIdx.x % column_tiles * tile_heads, live_heads = min(tile_heads, heads - first_head);
    u32 tile_column = first_head * head_dim, live_quads = live_heads * head_dim / 4;
    u32 live_down = tile_rows / PASS, last_row = rows - 1 - tile_row, last_column = cols - 1 - tile_column;

    u32 shared = shared_address(memory);
    u32 steps = ceil_div(octets, STEP_CHUNKS);
    u32 staged_row = threadIdx.x / STEP_CHUNKS, staged_chunk = threadIdx.x % STEP_CHUNKS;
    u32 place_in_step = staged_row * ROW_BYTES + (staged_chunk ^ staged_row % 8) * 16;
    auto stage_decoder = [&](u32 step) {
        u32 octet = step * STEP_CHUNKS + staged_chunk;
        bool present = octet < octets;
        u32 to = shared + WEIGHTS_AT + step % STAGES * WEIGHT_BYTES + place_in_step;
#pragma unroll
        for (u32 i = 0; i < OUTPUTS / 32; i++) {
            u32 column = tile_column + min(staged_row + 32 * i, last_column);
            copy_16(to + i * 32 * ROW_BYTES, decoder + u64(column) * octets + (present ? octet : 0), present);
        }
    };
    auto stage_latents = [&](u32 step) {
        u32 octet = step * STEP_CHUNKS + staged_chunk;
        bool present = octet < octets;
        u32 to = shared + step % STAGES * INPUT_BYTES + place_in_step;
#pragma unroll
        for (u32 i = 0; i < DOWN; i++) {
            if (i >= live_down) continue;
            u32 row = tile_row + min(staged_row + 32 * i, last_row);
            copy_16(to + i * 32 * ROW_BYTES, z + u64(row) * octets + (present ? octet : 0), present);
        }
    };
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; step++) {
        if (step < steps) stage_decoder(step);
    }

    // Where the tile's rows lie.
    References known = {{latents, entries, words}, {stride, references}, exact_words, exact_f16 != 0};
    Places places = {known, stores, raw, cols, neighbours, ordinals_at, ordinal_words, escapes_at, escapes};
    {
        u32 row = threadIdx.x / SEEKERS, own = threadIdx.x % SEEKERS;
        RestoredToken token = {0, ABSENT, 0};
        if (row < tile_rows && row <= last_row) token = restored_token<NAMING>(tokens, stores, first + tile_row + row, pitch, tokens_pitch);
        Place place = places.find<SEEKERS>(token, own);
        bool is_coded = place.record != nullptr;
        if (blocks_only && place.is_raw) {
            token.position = ABSENT;
            place.sources = 0;
        }
        for (u32 i = own; i < place.sources; i += SEEKERS) room[row][i] = is_coded ? places.reference(place, i) : place.own;
        if (own == 0) targets[row] = {token.position, token.slot, place.sources, is_coded};
    }
    __syncthreads();

    // Bases, and rows that are stored as they are, in registers: a team's threads take the quads of a row in turn.
    u32 team_row = threadIdx.x / TEAM, team_own = threadIdx.x % TEAM;
    u32 first_quad = tile_column / 4;
    float4 base[PASSES][QUADS];
#pragma unroll
    for (u32 pass = 0; pass < PASSES; pass++) {
        if (pass >= live_down) continue;
        u32 row = pass * PASS + team_row;
        Target target = targets[row];
        ExactRows all = {room[row], target.sources};
        float share = 1.0f / float(max(target.sources, 1u));
#pragma unroll
        for (u32 i = 0; i < QUADS; i++) {
            u32 quad = team_own + i * TEAM;
            if (quad >= live_quads) continue;
            float4 middle = mean[first_quad + quad];
            float4 x = all.mean(first_quad + quad, cols, middle, share);
            if (target.is_coded) {
                if (neighbours == 0) x = middle;
                if (mean_rows == 2) x = sum_of(x, mean[cols / 4 + first_quad + quad]);
            }
            base[pass][i] = x;
        }
    }

    wait_for_inputs();
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; step++) {
        if (step < steps) stage_latents(step);
        copies_commit();
    }
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 warp_down = warp / WARPS_ACROSS, warp_output = warp % WARPS_ACROSS * (ACROSS * 8);
    u32 left_from = shared + (warp_down * 16 + lane % 16) * ROW_BYTES;
    u32 left_chunk = lane / 16;
    u32 right_from = shared + WEIGHTS_AT + (warp_output + lane % 8 + lane / 16 * 8) * ROW_BYTES;
    u32 right_chunk = lane / 8 % 2;
    float sum[DOWN][ACROSS][4] = {};
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
        copies_wait<STAGES - 2>();
        // The step has arrived for all, and all have left the one before it, whose place the next copies take.
        __syncthreads();
        if (step + STAGES - 1 < steps) {
            stage_decoder(step + STAGES - 1);
            stage_latents(step + STAGES - 1);
        }
        copies_commit();
#pragma unroll
        for (u32 k = 0; k < DEPTH; k++) {
            u32 left_at = left_from + step % STAGES * INPUT_BYTES + ((2 * k + left_chunk) ^ lane % 8) * 16;
            u32 right_at = right_from + step % STAGES * WEIGHT_BYTES + ((2 * k + right_chunk) ^ lane % 8) * 16;
            u32 right[ACROSS / 2][4];
#pragma unroll
            for (u32 j = 0; j < ACROSS / 2; j++) load_matrix_x4(right[j], right_at + j * 16 * ROW_BYTES);
#pragma unroll
            for (u32 i = 0; i < DOWN; i++) {
                if (i >= live_down) continue;
                u32 left[4];
                load_matrix_x4(left, left_at + i * 32 * ROW_BYTES);
#pragma unroll
                for (u32 j = 0; j < ACROSS; j++) multiply_16x8x16(sum[i][j], left, right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
    release_dependents();

    // From the layout of products to that of rows.
    __syncthreads();
    float* exchange = reinterpret_cast<float*>(memory);
#pragma unroll
    for (u32 i = 0; i < DOWN; i++) {
        if (i >= live_down) continue;
        float* to = exchange + (i * 32 + warp_down * 16 + lane / 4) * PITCH + warp_output + lane % 4 * 2;
#pragma unroll
        for (u32 j = 0; j < ACROSS; j++) {
            *reinterpret_cast<float2*>(to + 8 * j) = make_float2(sum[i][j][0], sum[i][j][1]);
            *reinterpret_cast<float2*>(to + 8 * PITCH + 8 * j) = make_float2(sum[i][j][2], sum[i][j][3]);
        }
    }
    __syncthreads();
    u32 half = head_dim / 2;
#pragma unroll
    for (u32 pass = 0; pass < PASSES; pass++) {
        if (pass >= live_down) continue;
        u32 row = pass * PASS + team_row;
        float4* own = reinterpret_cast<float4*>(exchange + row * PITCH);
#pragma unroll
        for (u32 i = 0; i < QUADS; i++) {
            u32 quad = team_own + i * TEAM;
            if (quad < live_quads) own[quad] = sum_of(base[pass][i], own[quad]);
        }
        __syncwarp();
        Target target = targets[row];
        bool counts = target.position != ABSENT && target.slot < slots;
        Rotation rotation = Rotation::at(table, counts ? target.position : 0, table_rows, rope_pitch, head_dim);
        for (u32 head = 0; head < live_heads; head++) {
            bool is_key = 2 * (first_head + head) < heads;
            const float* from = exchange + row * PITCH + head * head_dim;
            float factor = 1.0f;
            if (is_key && norm != nullptr) {
                float squares = 0.0f;
                for (u32 j = 4 * team_own; j < head_dim; j += 4 * TEAM) {
                    float4 x = *reinterpret_cast<const float4*>(from + j);
                    squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
                }
#pragma unroll
                for (u32 step = TEAM / 2; step > 0; step /= 2) squares += __shfl_xor_sync(ALL, squares, step);
                factor = 1.0f / sqrtf(squares / float(head_dim) + epsilon);
            }
            if (!counts) continue;
            f16* to = kv + u64(target.slot) * kv_pitch + tile_column + head * head_dim;
            for (u32 j = 4 * team_own; j < half; j += 4 * TEAM) {
                float a[4], b[4];
                Rotation::load(from + j, a);
                Rotation::load(from + half + j, b);
                if (is_key && norm != nullptr) {
                    float low[4], high[4];
                    Rotation::load(norm + j, low);
                    Rotation::load(norm + half + j, high);
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        a[i] *= factor * low[i];
                        b[i] *= factor * high[i];
                    }
                }
                if (is_key) rotation.turn(j, a, b);
                *reinterpret_cast<uint2*>(to + j) = make_uint2(f16_pair(a[0], a[1]), f16_pair(a[2], a[3]));
                *reinterpret_cast<uint2*>(to + half + j) = make_uint2(f16_pair(b[0], b[1]), f16_pair(b[2], b[3]));
            }
        }
    }
}
