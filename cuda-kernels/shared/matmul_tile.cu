// What: y[i, o] = weight[o] . a[i] + bias[o], or added to y, in tiles of rows and outputs, by tensor cores, for up to three weights; GATED instead
// y[i, o] = silu(weight0[o] . a[i]) * (weight1[o] . a[i]).
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: x = tiles, by bands of 8 tiles of rows, in which those of the same outputs follow one another and share the reads of their weights.
// Shared: STAGES steps of 64 columns of a tile's rows and outputs as f16; of codes two steps as f16, and STAGES as they are. Up to 155 KiB.
// Numerics: a comes as f16, and weights are rounded to f16; sums in f32.
//:threads 256
//:variant WEIGHT = F16 | Q4 | Q8G32 | Q8G16 | Q8G32M
//:variant TILE = LARGE | MEDIUM | SMALL | NARROW
//:variant FORM = PLAIN | GATED
#include "part/codes.cuh"
#include "part/gated.cuh"
#include "part/launch.cuh"
#include "part/product.cuh"
#include "part/reduce.cuh"
#include "part/stage.cuh"
#include "part/tensor_core.cuh"

enum Form { PLAIN, GATED };
enum TileName { LARGE, MEDIUM, SMALL, NARROW };

// Rows and outputs of a tile, warps along both, steps under way, and blocks of a multiprocessor.
struct TileShape {
    u32 rows, outputs, warps_down, warps_across, stages, blocks;
};
constexpr TileShape SHAPES[] = {{256, 128, 4, 2, 3, 1}, {128, 128, 2, 4, 4, 1}, {64, 64, 2, 4, 5, 2}, {32, 64, 2, 4, 6, 2}};
constexpr TileShape SHAPE = SHAPES[TILE];
constexpr u32 STAGES = SHAPE.stages;

// Tiles of rows of a band, whose input stays in the second cache while all weights pass.
constexpr u32 BAND = 8;
// Columns of a step: 8 chunks of 16 bytes, which are 128 bytes of a row in shared memory. There chunk c of row r lies at c ^ r % 8, so that eight
// rows' chunks lie in different banks.
constexpr u32 STEP_CHUNKS = 8;
constexpr u32 STEP_GROUPS = 2;
constexpr u32 ROW_BYTES = 16 * STEP_CHUNKS;
// Products of 16 columns in a step.
constexpr u32 DEPTH = STEP_CHUNKS / 2;
// Products of 16 rows and of 8 outputs of a warp.
constexpr u32 DOWN = SHAPE.rows / SHAPE.warps_down / 16;
constexpr u32 ACROSS = SHAPE.outputs / SHAPE.warps_across / 8;
// Outputs of a tile that are of one weight.
constexpr u32 OUTPUTS = FORM == GATED ? SHAPE.outputs / 2 : SHAPE.outputs;

// Weights that are codes pass through a thread's own place in shared memory, a group of 32 a step: chunks, and the word of the scale.
constexpr bool CODED = WEIGHT != F16;
constexpr u32 GROUP_CHUNKS = WEIGHT == Q4 ? 1 : 2;
constexpr u32 STAGERS = SHAPE.outputs * STEP_GROUPS;
constexpr u32 INPUT_BYTES = SHAPE.rows * ROW_BYTES;
constexpr u32 WEIGHT_BYTES = SHAPE.outputs * ROW_BYTES;
constexpr u32 WEIGHT_STAGES = CODED ? 2 : STAGES;
constexpr u32 WEIGHTS_AT = STAGES * INPUT_BYTES;
constexpr u32 CODES_AT = WEIGHTS_AT + WEIGHT_STAGES * WEIGHT_BYTES;
constexpr u32 SCALES_AT = CODES_AT + STAGES * GROUP_CHUNKS * STAGERS * 16;

static_assert(SHAPE.warps_down * SHAPE.warps_across * WARP == THREADS, "every warp has a part of the tile");
static_assert(STAGERS <= THREADS, "a thread has at most one group");
static_assert(ACROSS % 2 == 0, "outputs are loaded 16 at a time");

// A tile's operands: rows of the input from `tile_row` on, and of weights from `tile_output` on. Rows beyond the last repeat it.
struct Operands {
    const uint4* a;
    const uint4* weight;
    const uint4* other;
    u32 tile_row, last_row, tile_output, last_output, a_pitch, weight_pitch, scale_offset;

    // Chunks of inputs and of weights are counted in 32 bits, which are half the registers of addresses.
    __device__ const uint4* input(u32 row, u32 chunk) const { return a + (min(tile_row + row, last_row) * a_pitch + chunk); }

    // Gate and up alternate, 8 outputs at a time, so that a thread has the sums of both.
    __device__ const uint4* weights(u32 row, u32 chunk) const {
        u32 output = FORM == GATED ? row / 16 * 8 + row % 8 : row;
        const uint4* from = FORM == GATED && row / 8 % 2 == 1 ? other : weight;
        return from + (min(tile_output + output, last_output) * weight_pitch + chunk);
    }
};

// Starts to bring in a step's inputs and weights. Columns beyond the last are zeros.
__device__ inline void stage(const Operands& operands, u32 shared, u32 step) {
    u32 row = threadIdx.x / STEP_CHUNKS, chunk = threadIdx.x % STEP_CHUNKS;
    u32 column = step * STEP_CHUNKS + chunk;
    bool present = column < operands.a_pitch;
    u32 from = present ? column : 0;
    u32 place = row * ROW_BYTES + (chunk ^ row % 8) * 16;
    constexpr u32 PASS = THREADS / STEP_CHUNKS;
    u32 inputs = shared + step % STAGES * INPUT_BYTES + place;
#pragma unroll
    for (u32 i = 0; i < SHAPE.rows / PASS; i++) copy_16(inputs + i * PASS * ROW_BYTES, operands.input(row + i * PASS, from), present);
    if constexpr (!CODED) {
        u32 weights = shared + WEIGHTS_AT + step % STAGES * WEIGHT_BYTES + place;
#pragma unroll
        for (u32 i = 0; i < SHAPE.outputs / PASS; i++) copy_16(weights + i * PASS * ROW_BYTES, operands.weights(row + i * PASS, from), present);
    } else if (threadIdx.x < STAGERS) {
        u32 group = step * STEP_GROUPS + threadIdx.x % STEP_GROUPS;
        present = group < operands.a_pitch / 4;
        group = present ? group : 0;
        const uint4* weights = operands.weights(threadIdx.x / STEP_GROUPS, 0);
        u32 slot = step % STAGES;
#pragma unroll
        for (u32 i = 0; i < GROUP_CHUNKS; i++)
            copy_16(shared + CODES_AT + ((slot * GROUP_CHUNKS + i) * STAGERS + threadIdx.x) * 16, weights + group * GROUP_CHUNKS + i, present);
        // Two groups' scales without minima share a word, except for those of 16.
        u32 word = WEIGHT == Q8G32 ? group / 2 : group;
        const u32* scales = reinterpret_cast<const u32*>(weights + operands.scale_offset);
        copy_4(shared + SCALES_AT + (slot * STAGERS + threadIdx.x) * 4, scales + word, present);
    }
}

// Expands this thread's codes of a step, which it brought in itself. Codes are exact, so that each weight is rounded once.
__device__ inline void expand(char* memory, u32 step) {
    if (threadIdx.x >= STAGERS) return;
    u32 slot = step % STAGES, row = threadIdx.x / STEP_GROUPS, half = threadIdx.x % STEP_GROUPS;
    const uint4* codes = reinterpret_cast<const uint4*>(memory + CODES_AT) + slot * GROUP_CHUNKS * STAGERS + threadIdx.x;
    u32 word = reinterpret_cast<const u32*>(memory + SCALES_AT)[slot * STAGERS + threadIdx.x];
    uint4* to = reinterpret_cast<uint4*>(memory + WEIGHTS_AT + step % 2 * WEIGHT_BYTES + row * ROW_BYTES);
    uint4 chunks[GROUP_CHUNKS];
#pragma unroll
    for (u32 i = 0; i < GROUP_CHUNKS; i++) chunks[i] = codes[i * STAGERS];
    u32 minimum = Weight<WEIGHT>::HAS_MINIMUM ? high_twice(word) : 0;
#pragma unroll
    for (u32 octet = 0; octet < 4; octet++) {
        // A step has an even number of groups, so that `half` is the group's parity. Groups of 16 are two octets.
        bool upper = WEIGHT == Q8G16 ? octet >= 2 : WEIGHT == Q8G32 && half == 1;
        u32 scale = upper ? high_twice(word) : low_twice(word);
        constexpr u32 CHUNK_OCTETS = 4 / GROUP_CHUNKS;
        const uint4& chunk = chunks[octet / CHUNK_OCTETS];
        uint2 low = Codes<WEIGHT>::quad(chunk, octet % CHUNK_OCTETS * 2);
        uint2 high = Codes<WEIGHT>::quad(chunk, octet % CHUNK_OCTETS * 2 + 1);
        to[(4 * half + octet) ^ row % 8] = make_uint4(pair_multiply_add(low.x, scale, minimum), pair_multiply_add(low.y, scale, minimum),
                                                      pair_multiply_add(high.x, scale, minimum), pair_multiply_add(high.y, scale, minimum));
    }
}

// a_pitch: chunks of a row of a. weight_pitch, scale_offset: chunks of a weight row, and of it before the scales.
extern "C" __global__ void __launch_bounds__(THREADS, SHAPE.blocks) matmul_tile(
    const uint4* weight0, const uint4* weight1, const uint4* weight2, const uint4* a,
    const float* bias0, const float* bias1, const float* bias2, const u32* count, float* y0, float* y1, float* y2,
    u32 outputs0, u32 outputs1, u32 outputs2, u32 capacity, u32 weight_pitch, u32 scale_offset, u32 a_pitch, u32 add) {
    extern __shared__ uint4 memory[];
    wait_for_inputs();
    release_dependents();
    u32 rows = min(*count, capacity);
    u32 row_tiles = ceil_div(capacity, SHAPE.rows);
    u32 output_tiles = ceil_div(outputs0, OUTPUTS);
    if (FORM == PLAIN) output_tiles += ceil_div(outputs1, OUTPUTS) + ceil_div(outputs2, OUTPUTS);
    u32 band = blockIdx.x / (BAND * output_tiles);
    u32 within = blockIdx.x % (BAND * output_tiles);
    u32 width = min(BAND, row_tiles - band * BAND);
    u32 tile_row = (band * BAND + within % width) * SHAPE.rows;
    u32 tile = within / width;
    if (tile_row >= rows) return;
    Product product = {weight0, bias0, y0, outputs0};
    if (FORM == PLAIN) product = product_of(tile, OUTPUTS, product, {weight1, bias1, y1, outputs1}, {weight2, bias2, y2, outputs2});
    u32 tile_output = tile * OUTPUTS;
    Operands operands = {a, product.weight, weight1, tile_row, rows - 1, tile_output, product.outputs - 1, a_pitch, weight_pitch, scale_offset};

    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 warp_row = warp % SHAPE.warps_down * (DOWN * 16);
    u32 warp_output = warp / SHAPE.warps_down * (ACROSS * 8);
    // The rows whose addresses this lane gives, and which of a product's two chunks of columns.
    u32 shared = shared_address(memory);
    u32 left_from = shared + (warp_row + lane % 16) * ROW_BYTES;
    u32 left_chunk = lane / 16;
    u32 right_from = shared + WEIGHTS_AT + (warp_output + lane % 8 + lane / 16 * 8) * ROW_BYTES;
    u32 right_chunk = lane / 8 % 2;

    float sum[DOWN][ACROSS][4] = {};
    // Two sets: one is loaded while the other is multiplied.
    u32 left[2][DOWN][4], right[2][ACROSS / 2][4];
    auto load = [&](u32 step, u32 k) {
        u32 left_at = left_from + step % STAGES * INPUT_BYTES + ((2 * k + left_chunk) ^ lane % 8) * 16;
        u32 right_at = right_from + step % WEIGHT_STAGES * WEIGHT_BYTES + ((2 * k + right_chunk) ^ lane % 8) * 16;
#pragma unroll
        for (u32 i = 0; i < DOWN; i++) load_matrix_x4(left[k % 2][i], left_at + i * 16 * ROW_BYTES);
#pragma unroll
        for (u32 j = 0; j < ACROSS / 2; j++) load_matrix_x4(right[k % 2][j], right_at + j * 16 * ROW_BYTES);
    };

    u32 steps = ceil_div(a_pitch, STEP_CHUNKS);
    // Every step ends a group of copies, if an empty one, so that their number says which have arrived.
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; step++) {
        if (step < steps) stage(operands, shared, step);
        copies_commit();
    }
    copies_wait<STAGES - 2>();
    if (CODED) expand(reinterpret_cast<char*>(memory), 0);
    __syncthreads();
    load(0, 0);
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
#pragma unroll
        for (u32 k = 0; k < DEPTH; k++) {
            if (k == DEPTH - 1) {
                // The next step has arrived for all, and all have loaded what they need of this one.
                copies_wait<STAGES - 2>();
                __syncthreads();
            }
            // After the last step this loads what is not used.
            load(k == DEPTH - 1 ? step + 1 : step, (k + 1) % DEPTH);
            if (k == 0) {
                // In the place of the step before this one, which all have left.
                if (step + STAGES - 1 < steps) stage(operands, shared, step + STAGES - 1);
                copies_commit();
            }
            if (CODED && k == DEPTH - 2 && step + 1 < steps) {
                copies_wait<STAGES - 2>();
                expand(reinterpret_cast<char*>(memory), step + 1);
            }
#pragma unroll
            for (u32 i = 0; i < DOWN; i++) {
#pragma unroll
                for (u32 j = 0; j < ACROSS; j++) multiply_16x8x16(sum[i][j], left[k % 2][i], right[k % 2][j / 2][j % 2 * 2], right[k % 2][j / 2][j % 2 * 2 + 1]);
            }
        }
    }

#pragma unroll
    for (u32 i = 0; i < DOWN; i++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = tile_row + warp_row + 16 * i + 8 * half + lane / 4;
            if (row >= rows) continue;
            if (FORM == GATED) {
#pragma unroll
                for (u32 j = 0; j < ACROSS; j += 2) {
                    u32 output = tile_output + (warp_output + 8 * j) / 2 + lane % 4 * 2;
                    const float* gate = sum[i][j] + 2 * half;
                    const float* up = sum[i][j + 1] + 2 * half;
                    product.store_pair(row, output, gated(gate[0], up[0]), gated(gate[1], up[1]), false);
                }
            } else {
#pragma unroll
                for (u32 j = 0; j < ACROSS; j++) {
                    u32 output = tile_output + warp_output + 8 * j + lane % 4 * 2;
                    product.store_pair(row, output, sum[i][j][2 * half], sum[i][j][2 * half + 1], add != 0);
                }
            }
        }
    }
}
