// What: for each token of a block, the nearest references among one part of the candidates, by distance and of equal ones by ordinal.
// Contract: engine/contract/src/op/refer.rs
// Grid: x = blocks * parts of the candidates; 128 threads measure 128 tokens against 64 candidates at a time, each 8 tokens by 8.
// Shared: 33 KiB: twice 16 columns of the tokens and of the candidates, transposed, or the distances from 32 candidates; norms; and each
//   token's nearest, which would take registers from the products.
// Numerics: f32, less the mean, in the order of the columns; what a token adds to all its distances is left out, since ranks do not need it.
//:threads 128
#include "part/launch.cuh"
#include "part/nearest.cuh"

// Columns of a step.
constexpr u32 DEPTH = 16;
// Tokens and candidates of a thread.
constexpr u32 SIDE = 8;
// Quads from the distances of four candidates to those of the next four: an odd number keeps threads on banks of their own.
constexpr u32 DISTANCE_PITCH = BLOCK + 1;

struct Step {
    float tokens[DEPTH][BLOCK];
    float candidates[DEPTH][CANDIDATES];
};

union Room {
    Step steps[2];
    // Of each group of four candidates out of 32 the distances from each token.
    float4 distances[8 * DISTANCE_PITCH];
};

// Where item `item` of column `column` lies in a step: threads that store columns of one item meet other banks, and quads stay together.
__device__ inline u32 swizzled(u32 item, u32 column) { return item ^ ((column & 12) << 1); }

// What a thread brings in of one step: 8 columns of two tokens, and 4 of two candidates.
struct Fetched {
    uint4 tokens[2];
    uint2 candidates[2];
};

struct Loader {
    const float4* mean;
    const float4* metric;
    // The first of the thread's tokens, as chunks of 8 columns, and its candidates.
    const uint4* tokens;
    ExactRow candidates[2];
    u32 cols;

    // The first of the thread's quads of columns of tokens, and that of candidates.
    static __device__ u32 token_quad(u32 step) { return step * (DEPTH / 4) + 2 * (threadIdx.x % 2); }
    static __device__ u32 candidate_quad(u32 step) { return step * (DEPTH / 4) + threadIdx.x % 4; }
    // The first of the thread's tokens, and of its candidates.
    static __device__ u32 token() { return threadIdx.x / 2; }
    static __device__ u32 candidate() { return threadIdx.x / 4; }

    __device__ Fetched fetch(u32 step) const {
        Fetched found;
        #pragma unroll
        for (u32 i = 0; i < 2; i++) {
            found.tokens[i] = tokens[i * (BLOCK / 2) * (cols / 8) + token_quad(step) / 2];
            found.candidates[i] = candidates[i].load(candidate_quad(step), cols);
        }
        return found;
    }

    // Stores what was fetched, less the mean and candidates times the metric, and adds to the candidates' norms.
    __device__ void store(const Fetched& found, u32 step, Step& to, float (&norms)[2]) const {
        float4 low = mean[token_quad(step)], high = mean[token_quad(step) + 1];
        #pragma unroll
        for (u32 i = 0; i < 2; i++) {
            uint4 words = found.tokens[i];
            float values[8] = {
                f32_low(words.x) - low.x, f32_high(words.x) - low.y, f32_low(words.y) - low.z, f32_high(words.y) - low.w,
                f32_low(words.z) - high.x, f32_high(words.z) - high.y, f32_low(words.w) - high.z, f32_high(words.w) - high.w};
            #pragma unroll
            for (u32 c = 0; c < 8; c++) {
                u32 column = 8 * (threadIdx.x % 2) + c;
                to.tokens[column][swizzled(token() + i * (BLOCK / 2), column)] = values[c];
            }
        }
        u32 quad = candidate_quad(step);
        float4 middle = mean[quad], weight = metric[quad];
        #pragma unroll
        for (u32 i = 0; i < 2; i++) {
            float4 value = candidates[i].decode(found.candidates[i], quad, middle);
            float apart[4] = {value.x - middle.x, value.y - middle.y, value.z - middle.z, value.w - middle.w};
            float weighed[4] = {weight.x * apart[0], weight.y * apart[1], weight.z * apart[2], weight.w * apart[3]};
            #pragma unroll
            for (u32 c = 0; c < 4; c++) {
                u32 column = 4 * (threadIdx.x % 4) + c;
                norms[i] = fmaf(weighed[c], apart[c], norms[i]);
                to.candidates[column][swizzled(candidate() + i * (CANDIDATES / 2), column)] = weighed[c];
            }
        }
    }
};

__device__ inline float4 quad_at(const float* row, u32 item) { return *reinterpret_cast<const float4*>(row + item); }

// Adds the products of a step: of tokens 4 * down on and 64 + 4 * down on, with candidates 4 * across on and 32 + 4 * across on.
__device__ inline void multiply(const Step& step, u32 down, u32 across, float (&products)[SIDE][SIDE]) {
    // More at once would take more registers than four blocks of a multiprocessor have.
    #pragma unroll 4
    for (u32 column = 0; column < DEPTH; column++) {
        u32 token = swizzled(4 * down, column), candidate = swizzled(4 * across, column);
        float4 low = quad_at(step.tokens[column], token), high = quad_at(step.tokens[column], token + BLOCK / 2);
        float4 left = quad_at(step.candidates[column], candidate), right = quad_at(step.candidates[column], candidate + CANDIDATES / 2);
        float rows[SIDE] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        float columns[SIDE] = {left.x, left.y, left.z, left.w, right.x, right.y, right.z, right.w};
        #pragma unroll
        for (u32 r = 0; r < SIDE; r++) {
            #pragma unroll
            for (u32 c = 0; c < SIDE; c++) products[r][c] = fmaf(rows[r], columns[c], products[r][c]);
        }
    }
}

// found: [block][split][neighbour][token], the bits of a distance and an ordinal. capacity: blocks at most. words: words of a record.
extern "C" __global__ void __launch_bounds__(THREADS, 4) refer_search(
    const u32* staged, const BlockDesc* blocks, const u32* count, const u32* entries, const float4* mean, const float4* metric,
    const u32* latents, uint2* found,
    u32 capacity, u32 cols, u32 words, u32 stride, u32 references, u32 neighbours, u32 exact_words, u32 exact_f16, u32 splits) {
    release_dependents();
    wait_for_inputs();
    u32 number = blockIdx.x / splits, part = blockIdx.x % splits;
    if (number >= min(*count, capacity)) return;
    BlockDesc block = blocks[number];
    References rows = {{latents, entries, words}, {stride, references}, exact_words, exact_f16 != 0};
    u32 earlier = block.sinks + block.index * references;
    CandidateParts parts = CandidateParts::cut(earlier, stride, splits);
    u32 start = min(part * parts.share, parts.all), end = min(start + parts.share, parts.all);
    if (start >= end) return;
    __shared__ __align__(16) Room room;
    __shared__ __align__(16) float norms[CANDIDATES];
    __shared__ uint2 kept[MOST_NEIGHBOURS][BLOCK];
    auto staged_row = [&](u32 row) { return staged + u64(row) * (cols / 2); };
    Loader loader = {mean, metric, reinterpret_cast<const uint4*>(staged_row(block.source + Loader::token())), {}, cols};
    u32 across = threadIdx.x % 8, down = threadIdx.x / 8;
    // In the end a thread keeps the best of one token, which sees the candidates below `limit`.
    u32 limit = rows.shape.is_reference(threadIdx.x) ? 0 : min(earlier + threadIdx.x / stride + 1, end);
    u32 steps = cols / DEPTH;
    #pragma unroll
    for (u32 i = 0; i < MOST_NEIGHBOURS; i++) kept[i][threadIdx.x] = make_uint2(__float_as_uint(FAR), 0);
    for (u32 at = start; at < end; at += CANDIDATES) {
        #pragma unroll
        for (u32 i = 0; i < 2; i++) {
            // Beyond the last candidate it repeats the last.
            u32 candidate = min(at + Loader::candidate() + i * (CANDIDATES / 2), end - 1);
            loader.candidates[i] = candidate < block.sinks ? ExactRow{staged_row(candidate), true}
                                                           : rows.row(block.blocks, candidate - block.sinks);
        }
        float own_norms[2] = {0.0f, 0.0f};
        float products[SIDE][SIDE] = {};
        loader.store(loader.fetch(0), 0, room.steps[0], own_norms);
        __syncthreads();
        for (u32 step = 0; step < steps; step++) {
            // The next step's columns come while this one's are multiplied.
            bool more = step + 1 < steps;
            Fetched next;
            if (more) next = loader.fetch(step + 1);
            multiply(room.steps[step % 2], down, across, products);
            if (more) loader.store(next, step + 1, room.steps[(step + 1) % 2], own_norms);
            __syncthreads();
        }
        #pragma unroll
        for (u32 i = 0; i < 2; i++) {
            float norm = own_norms[i];
            norm += __shfl_xor_sync(ALL, norm, 1);
            norm += __shfl_xor_sync(ALL, norm, 2);
            if (threadIdx.x % 4 == 0) norms[Loader::candidate() + i * (CANDIDATES / 2)] = norm;
        }
        __syncthreads();
        Nearest nearest;
        #pragma unroll
        for (u32 i = 0; i < MOST_NEIGHBOURS; i++) {
            nearest.distances[i] = __uint_as_float(kept[i][threadIdx.x].x);
            nearest.ordinals[i] = kept[i][threadIdx.x].y;
        }
        #pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float4 norm = quad_at(norms, half * (CANDIDATES / 2) + 4 * across);
            #pragma unroll
            for (u32 r = 0; r < SIDE; r++) {
                u32 token = r / 4 * (BLOCK / 2) + 4 * down + r % 4;
                const float* product = products[r] + 4 * half;
                room.distances[across * DISTANCE_PITCH + token] = make_float4(
                    fmaf(-2.0f, product[0], norm.x), fmaf(-2.0f, product[1], norm.y),
                    fmaf(-2.0f, product[2], norm.z), fmaf(-2.0f, product[3], norm.w));
            }
            __syncthreads();
            u32 first = at + half * (CANDIDATES / 2);
            for (u32 group = 0; group < 8 && first + 4 * group < limit; group++) {
                float4 distances = room.distances[group * DISTANCE_PITCH + threadIdx.x];
                u32 ordinal = first + 4 * group;
                nearest.offer(distances.x, ordinal);
                if (ordinal + 1 < limit) nearest.offer(distances.y, ordinal + 1);
                if (ordinal + 2 < limit) nearest.offer(distances.z, ordinal + 2);
                if (ordinal + 3 < limit) nearest.offer(distances.w, ordinal + 3);
            }
            __syncthreads();
        }
        #pragma unroll
        for (u32 i = 0; i < MOST_NEIGHBOURS; i++) {
            kept[i][threadIdx.x] = make_uint2(__float_as_uint(nearest.distances[i]), nearest.ordinals[i]);
        }
    }
    uint2* own = found + (u64(number) * splits + part) * neighbours * BLOCK + threadIdx.x;
    for (u32 i = 0; i < neighbours; i++) own[i * BLOCK] = kept[i][threadIdx.x];
}
