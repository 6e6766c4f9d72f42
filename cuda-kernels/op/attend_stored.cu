// What: attention of rows one by one over tokens as they are stored: rotated codes in blocks, and raw rows before the rotary embedding.
// Contract: engine/contract/src/op/attend_stored.rs
// Grid: x = row * key head * block of QUERIES query heads, for each split of its tokens; splits beyond what the row sees leave at once. Of a split, each
// warp takes its share of the raw tokens, and then units of tokens that lie in one block, 16 at a time. The last split to end makes one result of all.
// Shared: copies of codes and scales that are under way, which later hold what is merged; the angles of a unit's tokens.
// Numerics: codes are multiplied by the rotation as integers within a group, exactly, and across groups in f32; keys and values are rounded to f16
// before they meet queries and weights, which enter products in two f16 parts. Sums in f32.
//:threads 384
//:variant DIM = 64 | 128
//:variant BITS = 4 | 8
//:variant QUERIES = 4 | 8
//:variant NORMED = false | true
//:variant STAGES = 2 | 3
#include "part/attend.cuh"
#include "part/launch.cuh"
#include "part/reduce.cuh"
#include "part/stage.cuh"
#include "part/stored.cuh"
#include "part/tensor_core.cuh"

constexpr u32 WARPS = THREADS / WARP;
// Tokens of a warp's step.
constexpr u32 TOKENS = 16;
// Elements that share a scale, groups of a head, and those of the first elements of its rotary pairs.
constexpr u32 GROUP = 32;
constexpr u32 GROUPS = DIM / GROUP;
constexpr u32 HALF = DIM / 2;
constexpr u32 LOW = GROUPS / 2;
// Products of eight columns that make a group.
constexpr u32 PARTS = GROUP / 8;
// Elements that a product of 16 rows or 16 columns takes.
constexpr u32 TILES = DIM / 16;
// Products have eight columns: of four queries each one's larger and smaller part.
constexpr u32 SETS = QUERIES / 4;
// Bytes of a token's codes, their chunks of 16, bytes of its scales, and those of a step.
constexpr u32 ROW = DIM * BITS / 8;
constexpr u32 CHUNKS = ROW / 16;
constexpr u32 SCALE_BYTES = 2 * GROUPS;
constexpr u32 SCALES_AT = 2 * TOKENS * ROW;
constexpr u32 STAGE = SCALES_AT + 2 * TOKENS * SCALE_BYTES;
// launch/attend_stored.rs reserves memory for STAGES steps of a warp that are under way.
// Floats from one query to the next in shared memory: 8 more than there are, so that they lie in different banks.
constexpr u32 PITCH = DIM + 8;
// The root of DIM over 8, of which keys are a multiple here: 8 does not round scales.
constexpr float KEY_SIZE = DIM == 64 ? 1.0f : 1.4142135623730951f;
// And what they are too large by until they are turned.
constexpr float KEY_GAIN = 8.0f;
constexpr float VALUE_SIZE = DIM == 64 ? 0.125f : 0.08838834764831845f;

static_assert(WARPS * QUERIES * PITCH * 4 <= WARPS * STAGES * STAGE, "what is merged fits where copies were");

// Chunk c of a row of codes lies at c ^ chunk_turn(row), so that eight rows' chunks at one place are in different banks. Rows eight further on have the same.
__device__ inline u32 chunk_turn(u32 row) { return row * CHUNKS / 8 % CHUNKS; }

// A warp's copies into its ring, of steps of units in turn.
struct Stream {
    // Rows of a round of copies.
    static constexpr u32 ROWS = WARP / CHUNKS;

    const unsigned char* latents;
    const u32* blocks;
    u64 record_bytes;
    // Where a lane's codes and scales begin in a record, and from one token to the next, and from keys to values.
    u32 codes, code_pitch, code_values, scales, scale_pitch;
    // Steps of a unit, and as a power of two how many units a block has; units to do.
    u32 steps, unit_bits, end;
    // Where a lane's chunks of keys lie in a step of the ring, and its scales.
    u32 codes_to, scales_to;
    u32 unit, step;
    const unsigned char* record;
    u32 later;

    __device__ u32 block_of(u32 of) const { return entry_index(blocks[min(of, end - 1) >> unit_bits]); }

    __device__ void begin(u32 first, u32 ring) {
        u32 lane = threadIdx.x % WARP, row = lane / CHUNKS, chunk = lane % CHUNKS;
        codes += row * code_pitch + 16 * chunk;
        codes_to = ring + row * ROW + 16 * (chunk ^ chunk_turn(row));
        scales_to = ring + SCALES_AT + lane * SCALE_BYTES;
        unit = first;
        step = 0;
        if (unit >= end) return;
        record = latents + block_of(unit) * record_bytes;
        later = block_of(unit + WARPS);
    }

    // Starts the copies of a step, where one is left.
    __device__ void start(u32 stage) {
        if (unit < end) {
            u32 first = ((unit & ((1u << unit_bits) - 1)) * steps + step) * TOKENS;
            const unsigned char* from = record + (codes + first * code_pitch);
#pragma unroll
            for (u32 i = 0; i < TOKENS / ROWS; i++) {
                // Every second round of four rows has the other half of the turns.
                u32 to = (codes_to + stage * STAGE ^ 16 * chunk_turn(i * ROWS)) + i * ROWS * ROW;
                copy_16(to, from, true);
                copy_16(to + TOKENS * ROW, from + code_values, true);
                from += ROWS * code_pitch;
            }
            copy_few<SCALE_BYTES>(scales_to + stage * STAGE, record + (scales + first * scale_pitch));
            if (++step == steps) {
                step = 0;
                unit += WARPS;
                record = latents + later * record_bytes;
                later = block_of(unit + WARPS);
            }
        }
        copies_commit();
    }
};

#include "part/stored_sums.cuh"

// Raw tokens that a row sees: sinks, and what is after the blocks.
struct RawTokens {
    StoreDesc store;
    const u32* entries;
    u32 sinks, count;

    __device__ u32 position(u32 index) const { return index < sinks ? index : index + store.compressed; }

    __device__ u32 slot(u32 index) const {
        bool is_sink = index < sinks;
        u32 place = is_sink ? index : index - sinks;
        u32 page = store.pages + (is_sink ? 0 : ceil_div(store.sinks, PAGE)) + place / PAGE;
        return entry_index(entries[page]) * PAGE + place % PAGE;
    }
};

// heads, kv_heads, blocks: query heads, key heads, and blocks of QUERIES heads for one. first_row: of this launch, of `rows_here` rows. unit: steps of a
// unit, a power of two up to 8. words: of a record. scales, code_words: halves and words of a token. table_rows: of rope.
extern "C" __global__ void __launch_bounds__(THREADS, 1) attend_stored(
    const float* q, const RowDesc* rows, const u32* count, const StoreDesc* stores, const u32* entries, const f16* raw, const float* mean,
    const u32* latents, const float* norm, const float* rope, float4* out, float4* sums, float2* stats, u32 capacity, u32 first_row, u32 rows_here,
    u32 heads, u32 kv_heads, u32 blocks, u32 splits, u32 unit, u32 words, u32 scales, u32 scales_at, u32 code_words, u32 codes_at, u32 table_rows,
    float epsilon, float scale) {
    // The warps' rings, and then what they merge; the angles.
    extern __shared__ __align__(128) uint4 memory[];
    __shared__ Known known;
    __shared__ float2 warp_stats[WARPS][QUERIES];
    // What sums of codes begin with: a number whose bits grow by one for each whole; and that less what codes have too much, where this comes together,
    // in the first element. And HALF_WHOLE. They are read from here since the compiler would fill registers with what it knows again and again.
    __shared__ int4 begins[2];
    __shared__ u32 half_whole;

    release_dependents();
    u32 groups = rows_here * kv_heads * blocks;
    u32 place = blockIdx.x % groups, split = blockIdx.x / groups;
    u32 row = first_row + place / (kv_heads * blocks), kv_head = place / blocks % kv_heads, block = place % blocks;
    u32 group = heads / kv_heads;
    u32 first_head = kv_head * group + block * QUERIES;
    u32 block_queries = min(group - block * QUERIES, QUERIES);
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, line = lane / 4, pair = lane % 4;

    // What no step changes. The table's first row is the factor of its cosines and sines, which queries would get a second time.
    float4* angles = reinterpret_cast<float4*>(memory + WARPS * STAGES * STAGE / 16);
    float key_scale = scale * LOG2_E / KEY_SIZE / rope[0];
    for (u32 i = threadIdx.x; i < unit * 2 * LOW * PARTS * WARP; i += THREADS) {
        u32 of = i / WARP, own = i % WARP;
        u32 token = of / (LOW * PARTS) * 8 + own / 4;
        u32 j = of / PARTS % LOW * GROUP + of % PARTS * 8 + own % 4 * 2;
        const float* from = rope + token * DIM + j;
        float2 cosine = *reinterpret_cast<const float2*>(from), sine = *reinterpret_cast<const float2*>(from + HALF);
        // Keys of codes come KEY_GAIN times too large.
        cosine = make_float2(cosine.x / KEY_GAIN, cosine.y / KEY_GAIN), sine = make_float2(sine.x / KEY_GAIN, sine.y / KEY_GAIN);
        angles[i] = NORMED ? make_float4(cosine.x, sine.x, cosine.y, sine.y)
                           : make_float4(cosine.x - sine.x, cosine.x + sine.x, cosine.y - sine.y, cosine.y + sine.y);
    }
    if (threadIdx.x < 2) {
        int first = MAGIC_BITS - int(threadIdx.x * ((1u << BITS) - 1) * GROUP / 2);
        begins[threadIdx.x] = make_int4(first, MAGIC_BITS, first, MAGIC_BITS);
        half_whole = HALF_WHOLE;
    }
    for (u32 i = threadIdx.x; i < DIM; i += THREADS) {
        float own = KEY_GAIN * KEY_SIZE * mean[kv_head * DIM + i], other = KEY_GAIN * KEY_SIZE * mean[kv_head * DIM + (i ^ HALF)];
        known.key_mean[i] = NORMED ? own : 0.5f * (i < HALF ? own + other : other - own);
        known.value_mean[i] = mean[(kv_heads + kv_head) * DIM + i];
        known.norm[i] = NORMED ? norm[i] : 0.0f;
    }

    wait_for_inputs();
    if (row >= min(*count, capacity)) return;
    u32 position = rows[row].position;
    StoreDesc store = stores[rows[row].view];
    u32 visible = min(store.length, position + 1);
    u32 coded = min(visible > store.sinks ? visible - store.sinks : 0, store.compressed);
    u32 units = ceil_div(coded, unit * TOKENS);
    u32 units_each = max(ceil_div(units, splits), 1u);
    u32 used = max(ceil_div(units, units_each), 1u);
    if (split >= used) return;

    u32 end = min((split + 1) * units_each, units);
    Stream stream;
    stream.latents = reinterpret_cast<const unsigned char*>(latents);
    stream.blocks = entries + store.blocks;
    stream.record_bytes = 4 * u64(words);
    stream.codes = 4 * codes_at + kv_head * ROW;
    stream.code_pitch = 4 * code_words;
    stream.code_values = 2 * code_words;
    stream.scales = 4 * scales_at + kv_head * SCALE_BYTES + lane % TOKENS * 2 * scales + lane / TOKENS * kv_heads * SCALE_BYTES;
    stream.scale_pitch = 2 * scales;
    stream.steps = unit;
    stream.unit_bits = __ffs(BLOCK / TOKENS / unit) - 1;
    stream.end = end;
    stream.begin(split * units_each + warp, shared_address(memory) + warp * STAGES * STAGE);
#pragma unroll
    for (u32 i = 0; i < STAGES; i++) stream.start(i);

    u64 query_row = u64(row) * heads + first_head;
    for (u32 i = threadIdx.x; i < QUERIES * DIM; i += THREADS) {
        u32 of = i / DIM, j = i % DIM;
        known.query[of][j] = of < block_queries ? q[(query_row + of) * DIM + j] * key_scale : 0.0f;
    }
    __syncthreads();

    // Raw tokens, while the first codes are on their way. What a warp makes of its own is a part of the result.
    Sums all;
    Query query;
    u32 room = splits * (1 + WARPS);
    u32 sinks = min(visible, store.sinks), after = store.sinks + store.compressed;
    RawTokens tokens = {store, entries, sinks, sinks + (visible > after ? visible - after : 0)};
    u32 raw_parts = min(ceil_div(tokens.count, TOKENS), used * WARPS);
    if (split * WARPS + warp < raw_parts) {
        all.clear();
        query.turn(known, rope, 0, table_rows);
        u32 pitch = 2 * kv_heads * DIM;
#pragma unroll 1
        for (u32 at = (split * WARPS + warp) * TOKENS; at < tokens.count; at += used * WARPS * TOKENS) {
            auto clamped = [&](u32 index) { return min(at + index, tokens.count - 1); };
            const f16* key[2];
            const float *low[2], *high[2];
#pragma unroll
            for (u32 t = 0; t < 2; t++) {
                u32 index = clamped(line + 8 * t), turn = tokens.position(index);
                key[t] = raw + u64(tokens.slot(index)) * pitch + kv_head * DIM;
                low[t] = rope + turn % ROPE_LOW * DIM;
                high[t] = rope + min(ROPE_LOW + turn / ROPE_LOW, table_rows - 1) * DIM;
            }
            auto keys = [&](u32 n, float (&y)[GROUPS][4]) {
#pragma unroll
                for (u32 i = 0; i < 2 * GROUPS; i++) {
                    u32 both = *reinterpret_cast<const u32*>(key[i % 2] + i / 2 * GROUP + 8 * n + 2 * pair);
                    y[i / 2][i % 2 * 2] = KEY_SIZE * f32_low(both);
                    y[i / 2][i % 2 * 2 + 1] = KEY_SIZE * f32_high(both);
                }
            };
            auto angle = [&](u32 t, u32 g, u32 n) {
                float2 own[2];
                Query::table_angles(low[t], high[t], GROUP * g + 8 * n + 2 * pair, own);
                return make_float4(own[0].x, own[0].y, own[1].x, own[1].y);
            };
            float score[2][SETS];
            score_tokens<false>(known, query, KEY_SIZE, epsilon, keys, angle, score);
#pragma unroll
            for (u32 i = 0; i < 2 * SETS; i++) {
                if (at + line + 8 * (i / SETS) >= tokens.count) score[i / SETS][i % SETS] = LEAST;
            }
            u32 weights[SETS][2];
            all.weigh(score, weights);
            // Words of two elements each, of four tokens.
            const u32* value[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 slot = tokens.slot(clamped(2 * pair + i % 2 + i / 2 * 8));
                value[i] = reinterpret_cast<const u32*>(raw + u64(slot) * pitch + (kv_heads + kv_head) * DIM + DIM / 8 * line);
            }
#pragma unroll
            for (u32 tile = 0; tile < TILES; tile++) {
                u32 factor[4];
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    u32 even = value[2 * i][tile], odd = value[2 * i + 1][tile];
                    factor[2 * i] = __byte_perm(even, odd, 0x5410);
                    factor[2 * i + 1] = __byte_perm(even, odd, 0x7632);
                }
                all.add(tile, factor, weights);
            }
        }
        all.total();
#pragma unroll
        for (u32 set = 0; set < SETS; set++) {
            u32 of = 4 * set + pair;
            if (of >= block_queries) continue;
            u64 part = (query_row + of) * room + used + split * WARPS + warp;
            float* to = reinterpret_cast<float*>(sums) + part * DIM + DIM / 8 * line;
#pragma unroll
            for (u32 i = 0; i < TILES; i++) *reinterpret_cast<float2*>(to + 2 * i) = all.pair_of(set, i, 1.0f);
            if (line == 0) stats[part] = make_float2(all.reference[set], all.weight[set]);
        }
    }

    // The rotation within a group as the second factor of products of codes.
    u32 rotation[PARTS][2];
#pragma unroll
    for (u32 i = 0; i < 2 * PARTS; i++) {
        u32 word = 0;
#pragma unroll
        for (u32 b = 0; b < 4; b++) word |= (__popc((i / 2 * 8 + line) & code_element<BITS>(pair, i % 2, b)) % 2 ? 0xffu : 1u) << (8 * b);
        rotation[i / 2][i % 2] = word;
    }
    // Sums of a group's first part, and of others.
    const int4 first_begins = begins[pair == 0], other_begins = begins[0];
    const int begin_first[4] = {first_begins.x, first_begins.y, first_begins.z, first_begins.w};
    const int begin_any[4] = {other_begins.x, other_begins.y, other_begins.z, other_begins.w};
    const u32 whole = half_whole;

    // Where a lane's codes of keys begin in a step, those of further groups at other chunks; where those of values do; and the scales of both.
    const unsigned char* ring = reinterpret_cast<const unsigned char*>(memory) + warp * STAGES * STAGE;
    u32 ring_address = shared_address(ring);
    u32 key_from = line * ROW + 16 * chunk_turn(line) + 4 * pair;
    u32 value_from = TOKENS * ROW + lane % TOKENS * ROW + 16 * (lane / TOKENS ^ chunk_turn(lane % TOKENS));
    u32 key_scales_from = SCALES_AT + line * SCALE_BYTES, value_scales_from = SCALES_AT + (TOKENS + 2 * pair) * SCALE_BYTES;
    u32 stage = 0;
    all.clear();
#pragma unroll 1
    for (u32 at = split * units_each + warp; at < end; at += WARPS) {
        u32 first = at * unit * TOKENS;
        query.turn(known, rope, store.sinks + first, table_rows);
#pragma unroll 1
        for (u32 step = 0; step < unit; step++) {
            copies_wait<STAGES - 1>();
            __syncwarp();
            u32 at_stage = stage * STAGE;
            u32 factor[GROUPS][4];
            float size[2][GROUPS], offset[2][GROUPS];
#pragma unroll
            for (u32 t = 0; t < 2; t++) {
#pragma unroll
                for (u32 g = 0; g < GROUPS; g++) {
                    auto word = [&](u32 chunk) { return *reinterpret_cast<const u32*>(ring + (key_from + at_stage ^ 16 * chunk) + 8 * t * ROW); };
                    factor[g][t] = BITS == 8 ? word(2 * g) : word(g) & 0x0f0f0f0fu;
                    factor[g][t + 2] = BITS == 8 ? word(2 * g + 1) : word(g) >> 4 & 0x0f0f0f0fu;
                }
#pragma unroll
                for (u32 g = 0; g < LOW; g++) {
                    u32 both = *reinterpret_cast<const u32*>(ring + key_scales_from + at_stage + 8 * t * SCALE_BYTES + 4 * g);
                    size[t][2 * g] = f32_low(both);
                    size[t][2 * g + 1] = f32_high(both);
                }
#pragma unroll
                for (u32 g = 0; g < GROUPS; g++) offset[t][g] = -MAGIC * size[t][g];
            }
            auto keys = [&](u32 n, float (&y)[GROUPS][4]) {
#pragma unroll
                for (u32 g = 0; g < GROUPS; g++) {
                    int sum[4];
                    multiply_codes(sum, factor[g], rotation[n][0], rotation[n][1], n == 0 ? begin_first : begin_any);
#pragma unroll
                    for (u32 i = 0; i < 4; i++) y[g][i] = __fmaf_rn(__int_as_float(sum[i]), size[i / 2][g], offset[i / 2][g]);
                }
                // The rotation across groups; the angles have its last sums and differences in them, where no norm comes between.
#pragma unroll
                for (u32 half = 1; half < (NORMED ? GROUPS : LOW); half *= 2) {
#pragma unroll
                    for (u32 g = 0; g < GROUPS; g++) {
                        if (g & half) continue;
#pragma unroll
                        for (u32 i = 0; i < 4; i++) {
                            float a = y[g][i], b = y[g + half][i];
                            y[g][i] = a + b;
                            y[g + half][i] = a - b;
                        }
                    }
                }
#pragma unroll
                for (u32 g = 0; g < GROUPS; g++) {
                    float2 middle = *reinterpret_cast<const float2*>(known.key_mean + GROUP * g + 8 * n + 2 * pair);
#pragma unroll
                    for (u32 i = 0; i < 4; i++) y[g][i] += i % 2 ? middle.y : middle.x;
                }
            };
            const float4* step_angles = angles + step * 2 * LOW * PARTS * WARP + lane;
            auto angle = [&](u32 t, u32 g, u32 n) { return step_angles[((t * LOW + g) * PARTS + n) * WARP]; };
            float score[2][SETS];
            score_tokens<!NORMED>(known, query, KEY_GAIN * KEY_SIZE, epsilon, keys, angle, score);
            if (first + step * TOKENS + TOKENS > coded) {
#pragma unroll
                for (u32 i = 0; i < 2 * SETS; i++) {
                    if (first + step * TOKENS + line + 8 * (i / SETS) >= coded) score[i / SETS][i % SETS] = LEAST;
                }
            }
            u32 weights[SETS][2];
            all.weigh(score, weights);

            // Values of a chunk of 16 bytes of 16 tokens: a lane has two bytes of tokens 2 * (lane % 4) and the next, and of the eighth after those.
            const u32* value_scales = reinterpret_cast<const u32*>(ring + value_scales_from + at_stage);
#pragma unroll
            for (u32 chunk = 0; chunk < CHUNKS; chunk += 2) {
                u32 both[4];
                load_matrix_x4_trans(both, ring_address + (value_from + at_stage ^ 16 * chunk));
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    u32 g = (chunk + i) * (8 / BITS) / 2;
                    u32 halves[2][16 / BITS];
#pragma unroll
                    for (u32 t = 0; t < 2; t++) {
                        const u32* scales_of = value_scales + 8 * t * LOW + g / 2;
                        u32 sizes = __byte_perm(scales_of[0], scales_of[LOW], g % 2 ? 0x7632 : 0x5410);
                        code_halves<BITS>(both[2 * i + t], sizes, whole, halves[t]);
                    }
#pragma unroll
                    for (u32 j = 0; j < 8 / BITS; j++) {
                        u32 factor[4] = {halves[0][2 * j], halves[0][2 * j + 1], halves[1][2 * j], halves[1][2 * j + 1]};
                        all.add((chunk + i) * (8 / BITS) + j, factor, weights);
                    }
                }
            }
            __syncwarp();
            stream.start(stage);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
    }
    // Beyond the end no copy was started; the rings of all warps are free once all are here.
    copies_wait<0>();

    // Warps become one: each scales its sums to the largest reference.
    all.total();
#pragma unroll
    for (u32 set = 0; set < SETS; set++) {
        if (line == 0) warp_stats[warp][4 * set + pair] = make_float2(all.reference[set], all.weight[set]);
    }
    __syncthreads();
    // What the block's weights of a query refer to, and their sum.
    auto block_stat = [&](u32 of) {
        float2 stat = make_float2(LEAST, 0.0f);
        for (u32 w = 0; w < WARPS; w++) stat.x = fmaxf(stat.x, warp_stats[w][of].x);
        for (u32 w = 0; w < WARPS; w++) stat.y += warp_stats[w][of].y * power_of_two(warp_stats[w][of].x - stat.x);
        return stat;
    };
    float* merged = reinterpret_cast<float*>(memory);
#pragma unroll
    for (u32 set = 0; set < SETS; set++) {
        float factor = power_of_two(all.reference[set] - block_stat(4 * set + pair).x);
        float* to = merged + (warp * QUERIES + 4 * set + pair) * PITCH + 16 / BITS * line;
#pragma unroll
        for (u32 i = 0; i < TILES; i++) {
            *reinterpret_cast<float2*>(to + i / (8 / BITS) * (128 / BITS) + i % (8 / BITS) * 2) = all.pair_of(set, i, factor);
        }
    }
    __syncthreads();
    for (u32 of = warp; of < block_queries; of += WARPS) {
        float2 stat = block_stat(of);
        float value[GROUPS] = {};
#pragma unroll
        for (u32 w = 0; w < WARPS; w++) {
#pragma unroll
            for (u32 g = 0; g < GROUPS; g++) value[g] += merged[(w * QUERIES + of) * PITCH + GROUP * g + lane];
        }
        rotate_back(value, lane);
        u64 part = (query_row + of) * room + split;
        float* to = reinterpret_cast<float*>(sums) + part * DIM + lane;
#pragma unroll
        for (u32 g = 0; g < GROUPS; g++) to[GROUP * g] = VALUE_SIZE * value[g] + stat.y * known.value_mean[GROUP * g + lane];
        if (lane == 0) stats[part] = stat;
    }
    if (!is_last_block(place, used)) return;
    for (u32 i = threadIdx.x; i < block_queries * (DIM / 4); i += THREADS) {
        u64 of = query_row + i / (DIM / 4);
        out[of * (DIM / 4) + i % (DIM / 4)] = merge_splits(sums, stats, of, room, used + raw_parts, DIM / 4, i % (DIM / 4));
    }
}
