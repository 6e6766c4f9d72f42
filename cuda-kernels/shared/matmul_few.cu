// What: y[i, o] = weight[o] . a[i] + bias[o], or added to y, for up to ROWS rows i, for up to three weights, by tensor cores; GATED instead
// y[i, o] = silu(weight0[o] . a[i]) * (weight1[o] . a[i]), and as f16 besides where a product takes it next.
// Contract: engine/contract/src/op/{linear,linear_add,norm_linear,gate_up_silu,qkv_rope_append}.rs
// Grid: x = groups of blocks, each with its share of the outputs, of which `slices` have a slice of the columns each; their last makes one sum of theirs.
// Shared: 60 to 64 KiB of weights under way, the input of a slice, and sums of all warps for two tiles (20 KiB for 16 rows).
// Numerics: a comes as f16, and weights are rounded to f16; sums in f32, by warp, then over warps, then over slices.
//:threads 256
//:variant WEIGHT = F16 | Q4 | Q8G32 | Q8G16 | Q8G32M
//:variant ROWS = 8 | 16
//:variant FORM = PLAIN | GATED
#include "part/arrive.cuh"
#include "part/codes.cuh"
#include "part/gated.cuh"
#include "part/launch.cuh"
#include "part/product.cuh"
#include "part/reduce.cuh"
#include "part/stage.cuh"
#include "part/tensor_core.cuh"

enum Form { PLAIN, GATED };

constexpr u32 WARPS = THREADS / WARP;
constexpr bool CODED = WEIGHT != F16;
// Weight rows of a tile: of one weight, or 8 gates and their 8 ups.
constexpr u32 TILE = 16;
constexpr u32 OUTPUTS = FORM == GATED ? TILE / 2 : TILE;
// A lane has a quarter of a step's columns of two weight rows: every fourth chunk of 16 bytes. That a product takes columns in the order in which lanes have
// them does not matter, as long as inputs come in the same.
constexpr u32 QUARTERS = 4;
constexpr u32 CHUNKS = WEIGHT == Q4 ? 1 : 2;
constexpr u32 CHUNK_OCTETS = Weight<WEIGHT>::ELEMENTS / 8;
constexpr u32 STEP_CHUNKS = QUARTERS * CHUNKS;
constexpr u32 STEP_OCTETS = STEP_CHUNKS * CHUNK_OCTETS;
// Chunks of a thread in a step, and steps under way.
constexpr u32 OWN = 2 * CHUNKS;
constexpr u32 STAGES = WEIGHT == F16 ? 4 : WEIGHT == Q4 ? 6 : 3;
constexpr u32 STAGE = OWN * THREADS;
constexpr u32 RING = STAGES * STAGE;
// Chunks between two rows of the input: half of the banks further.
constexpr u32 GAP = 4;
// Elements between two rows of a tile's sums, so that lanes' lie in different banks.
constexpr u32 PITCH = TILE + 4;
constexpr u32 EIGHTS = ROWS / 8;
// Results of a tile.
constexpr u32 RESULTS = ROWS * OUTPUTS;

static_assert(RESULTS <= THREADS, "a thread has at most one result");

// The word of a chunk's scale.
__device__ inline u32 scale_word_of(u32 chunk) {
    if (WEIGHT == Q4) return chunk;
    return WEIGHT == Q8G32 ? chunk / 4 : chunk / 2;
}

// All weights, tile by tile.
struct Weights {
    Product first, second, third;
    // Chunks of a whole weight row.
    u32 pitch;

    __device__ u32 tiles() const {
        u32 all = ceil_div(first.outputs, OUTPUTS);
        return FORM == GATED ? all : all + ceil_div(second.outputs, OUTPUTS) + ceil_div(third.outputs, OUTPUTS);
    }

    // The product of a tile, which becomes its number among the product's own.
    __device__ Product of(u32& tile) const { return FORM == GATED ? first : product_of(tile, OUTPUTS, first, second, third); }

    // Weight row `lane / 4` of a tile, or the one 8 further. Outputs beyond the last repeat it, and are not stored.
    __device__ const uint4* row(u32 tile, u32 half) const {
        Product product = of(tile);
        u32 output = tile * OUTPUTS + threadIdx.x % WARP / QUARTERS + (FORM == GATED ? 0 : 8 * half);
        const uint4* from = FORM == GATED && half == 1 ? second.weight : product.weight;
        return from + u64(min(output, product.outputs - 1)) * pitch;
    }
};

// A thread's copies of weights, in the order in which its warp multiplies: by tile, and by every WARPS-th step of the slice.
struct Stream {
    const Weights& weights;
    u32 chunks, first_step, last_step;
    u32 tile, last_tile, step;
    const uint4* rows[2];
    u32 codes, scales;

    __device__ Stream(const Weights& weights, u32 chunks, u32 first_step, u32 last_step, u32 tile, u32 last_tile, const uint4* ring)
        : weights(weights), chunks(chunks), first_step(first_step), last_step(last_step), tile(tile), last_tile(last_tile), step(first_step),
          codes(shared_address(ring + threadIdx.x)), scales(shared_address(reinterpret_cast<const u32*>(ring + RING) + threadIdx.x)) {
        if (first_step >= last_step) this->tile = last_tile;
        if (this->tile < last_tile) seek();
    }

    __device__ void seek() {
        rows[0] = weights.row(tile, 0);
        rows[1] = weights.row(tile, 1);
    }

    // Starts the copies of a step, where one is left. Beyond a row's end they repeat its last chunk, which meets inputs of zero.
    __device__ void start(u32 stage) {
        if (tile < last_tile) {
#pragma unroll
            for (u32 j = 0; j < CHUNKS; j++) {
                u32 chunk = min(step * STEP_CHUNKS + j * QUARTERS + threadIdx.x % QUARTERS, chunks - 1);
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32 place = stage * STAGE + (2 * j + half) * THREADS;
                    copy_16(codes + 16 * place, rows[half] + chunk, true);
                    if (CODED) copy_4(scales + 4 * place, WeightRow{rows[half], chunks}.scale_words() + scale_word_of(chunk), true);
                }
            }
            step += WARPS;
            if (step >= last_step) {
                step = first_step;
                tile++;
                if (tile < last_tile) seek();
            }
        }
        copies_commit();
    }
};

// Octet `octet` of a chunk as f16.
__device__ inline uint4 octet_of(const uint4& codes, u32 word, u32 octet) {
    uint2 low = Codes<WEIGHT>::quad(codes, 2 * octet), high = Codes<WEIGHT>::quad(codes, 2 * octet + 1);
    if (!CODED) return make_uint4(low.x, low.y, high.x, high.y);
    u32 quarter = threadIdx.x % QUARTERS;
    bool upper = WEIGHT == Q8G16 ? quarter % 2 == 1 : WEIGHT == Q8G32 && quarter / 2 == 1;
    u32 scale = upper ? high_twice(word) : low_twice(word), minimum = Weight<WEIGHT>::HAS_MINIMUM ? high_twice(word) : 0;
    return make_uint4(pair_multiply_add(low.x, scale, minimum), pair_multiply_add(low.y, scale, minimum),
                      pair_multiply_add(high.x, scale, minimum), pair_multiply_add(high.y, scale, minimum));
}

// Where octet `octet` of a slice's columns lies in shared memory: those that lanes multiply at once side by side.
__device__ inline u32 place_of(u32 octet) {
    if (CHUNK_OCTETS == 1) return octet;
    u32 within = octet % STEP_OCTETS;
    u32 chunk = within / CHUNK_OCTETS;
    return octet - within + (chunk / QUARTERS * CHUNK_OCTETS + within % CHUNK_OCTETS) * QUARTERS + chunk % QUARTERS;
}

// Where a thread's result of a tile goes, and what it is added to.
struct Result {
    Weights weights;
    unsigned short* half_out;
    u32 rows, add;

    __device__ void store(u32 tile, u32 row, u32 output, float first, float second) const {
        Product product = weights.of(tile);
        output += tile * OUTPUTS;
        if (row >= rows || output >= product.outputs) return;
        if (FORM == GATED) {
            float value = gated(first, second);
            product.y[u64(row) * round_up(product.outputs, 4) + output] = value;
            if (half_out) half_out[u64(row) * product.outputs + output] = f16_of(value);
        } else {
            product.store(row, output, first, add != 0);
        }
    }
};

// chunks, weight_pitch: chunks of a weight row's codes, and of a whole weight row. a_pitch: octets of a row of a. half_out: null where it is not
// wanted. sums: those of each slice where there are several, [tile][slice][RESULTS], twice as many of pairs.
extern "C" __global__ void __launch_bounds__(THREADS, 2) matmul_few(
    const uint4* weight0, const uint4* weight1, const uint4* weight2, const uint4* a,
    const float* bias0, const float* bias1, const float* bias2, const u32* count, float* y0, float* y1, float* y2, f16* half_out, float2* sums,
    u32 outputs0, u32 outputs1, u32 outputs2, u32 capacity, u32 chunks, u32 weight_pitch, u32 a_pitch, u32 slices, u32 add) {
    extern __shared__ uint4 memory[];
    Weights weights = {{weight0, bias0, y0, outputs0}, {weight1, bias1, y1, outputs1}, {weight2, bias2, y2, outputs2}, weight_pitch};
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 slice = blockIdx.x % slices, group = blockIdx.x / slices, groups = gridDim.x / slices;
    u32 tiles = weights.tiles();
    // The first groups take a tile more where there is a remainder.
    u32 share = tiles / groups, remainder = tiles % groups;
    u32 first_tile = share * group + min(group, remainder), last_tile = first_tile + share + (group < remainder ? 1 : 0);
    u32 steps = ceil_div(chunks, STEP_CHUNKS), slice_steps = ceil_div(steps, slices);
    u32 from_step = min(slice * slice_steps, steps), to_step = min(from_step + slice_steps, steps);

    Stream stream(weights, chunks, from_step + warp, to_step, first_tile, last_tile, memory);
#pragma unroll
    for (u32 i = 0; i < STAGES; i++) stream.start(i);
    release_dependents();
    wait_for_inputs();

    // The slice's input. Columns beyond the last and rows that do not count are zeros.
    const u32* scale_ring = reinterpret_cast<const u32*>(memory + RING);
    uint4* inputs = memory + RING + (CODED ? RING / 4 : 0);
    u32 octets = slice_steps * STEP_OCTETS, input_pitch = octets + GAP;
    float* partial = reinterpret_cast<float*>(inputs + ROWS * input_pitch);
    u32 rows = min(*count, capacity), first_octet = from_step * STEP_OCTETS;
    u32 to = shared_address(inputs);
    for (u32 octet = threadIdx.x; octet < octets; octet += THREADS) {
        u32 from = first_octet + octet, place = to + 16 * place_of(octet);
#pragma unroll
        for (u32 row = 0; row < ROWS; row++) {
            bool present = row < rows && from < a_pitch;
            copy_16(place + 16 * row * input_pitch, a + (present ? u64(row) * a_pitch + from : 0), present);
        }
    }
    copies_commit();
    copies_wait<0>();
    __syncthreads();

    const uint4* own_input = inputs + lane / QUARTERS * input_pitch + lane % QUARTERS;
    // The thread's result: a row and an output of the tile.
    u32 row = threadIdx.x / OUTPUTS, output = threadIdx.x % OUTPUTS;
    Result result = {weights, half_out, rows, add};
    u32 stage = 0;
    for (u32 tile = first_tile; tile < last_tile; tile++) {
        // Two sums of each, so that products need not wait for one another.
        float sum[EIGHTS][4] = {}, more[EIGHTS][4] = {};
#pragma unroll 1
        for (u32 step = from_step + warp; step < to_step; step += WARPS) {
            copies_wait<STAGES - 1>();
            uint4 codes[CHUNKS][2];
            u32 scales[CHUNKS][2] = {};
#pragma unroll
            for (u32 j = 0; j < CHUNKS; j++) {
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32 place = stage * STAGE + (2 * j + half) * THREADS + threadIdx.x;
                    codes[j][half] = memory[place];
                    if (CODED) scales[j][half] = scale_ring[place];
                }
            }
            stream.start(stage);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
            const uint4* input = own_input + (step - from_step) * STEP_OCTETS;
#pragma unroll
            for (u32 j = 0; j < CHUNKS; j++) {
#pragma unroll
                for (u32 octet = 0; octet < CHUNK_OCTETS; octet++) {
                    uint4 low = octet_of(codes[j][0], scales[j][0], octet), high = octet_of(codes[j][1], scales[j][1], octet);
                    u32 left[4] = {low.x, high.x, low.y, high.y}, right[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
                    for (u32 eight = 0; eight < EIGHTS; eight++) {
                        uint4 b = input[8 * eight * input_pitch + (j * CHUNK_OCTETS + octet) * QUARTERS];
                        multiply_16x8x16(sum[eight], left, b.x, b.y);
                        multiply_16x8x16(more[eight], right, b.z, b.w);
                    }
                }
            }
        }
        // Two tiles' sums in turn: all have read those of the one before the last when the last is complete.
        float* here = partial + tile % 2 * (WARPS * ROWS * PITCH);
        float* mine = here + (warp * ROWS + lane % 4 * 2) * PITCH + lane / 4;
#pragma unroll
        for (u32 eight = 0; eight < EIGHTS; eight++) {
            float* at = mine + 8 * eight * PITCH;
            at[0] = sum[eight][0] + more[eight][0];
            at[PITCH] = sum[eight][1] + more[eight][1];
            at[8] = sum[eight][2] + more[eight][2];
            at[PITCH + 8] = sum[eight][3] + more[eight][3];
        }
        __syncthreads();
        if (threadIdx.x < RESULTS) {
            float first = 0.0f, second = 0.0f;
#pragma unroll
            for (u32 i = 0; i < WARPS; i++) {
                const float* at = here + (i * ROWS + row) * PITCH + output;
                first += at[0];
                if (FORM == GATED) second += at[8];
            }
            if (slices > 1) sums[(u64(tile) * slices + slice) * RESULTS + threadIdx.x] = make_float2(first, second);
            else result.store(tile, row, output, first, second);
        }
    }
    if (slices == 1 || !is_last_block(group, slices)) return;
    if (threadIdx.x >= RESULTS) return;
    for (u32 tile = first_tile; tile < last_tile; tile++) {
        float first = 0.0f, second = 0.0f;
        for (u32 i = 0; i < slices; i++) {
            float2 value = __ldcg(sums + (u64(tile) * slices + i) * RESULTS + threadIdx.x);
            first += value.x;
            second += value.y;
        }
        result.store(tile, row, output, first, second);
    }
}
