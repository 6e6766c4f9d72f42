// Products of weights and one row as a stream: a block has its share of the weight rows, of which each warp takes a pair at a time, and every thread
// copies its own chunks of them into a ring in shared memory, STAGES steps before it multiplies them. Weights need nothing of earlier kernels, so
// copies start before the block waits for its input, and they go on while input is staged and while sums are reduced.
#pragma once
#include "part/launch.cuh"
#include "part/stage.cuh"
#include "part/staged_row.cuh"

constexpr u32 WARPS = THREADS / WARP;
// Weight rows that a warp multiplies at once.
constexpr u32 ROWS = 2;
// Steps that copies run ahead, and chunks of a step in the block: with 512 threads, 64 KiB are under way.
constexpr u32 STAGES = 4;
constexpr u32 STEP = ROWS * THREADS;

// Weights: the chunks of a row's codes, those from one row to the next, and those of a segment, which is as much of the input as is staged at a time, a
// multiple of WARP.
struct RowShape {
    u32 chunks;
    u32 pitch;
    u32 segment;
};

// A thread's copies, in the order in which its warp multiplies: by segment, by pair of rows, by step of WARP chunks.
template <WeightType TYPE, typename Outputs>
struct Stream {
    const Outputs& outputs;
    RowShape shape;
    // The pairs of the warp: every WARPS-th from `begin` to `end`.
    u32 begin, end;
    // What is copied next: a pair, its rows, and a step of a segment, by their first chunks.
    u32 pair, segment, step;
    const uint4* rows[ROWS];
    // The thread's first places in the ring, and in that of scales behind it.
    u32 codes, scales;

    __device__ Stream(const Outputs& outputs, RowShape shape, u32 begin, u32 end, const uint4* ring)
        : outputs(outputs), shape(shape), begin(begin), end(end), pair(begin), segment(0), step(0),
          codes(shared_address(ring + threadIdx.x)),
          scales(shared_address(reinterpret_cast<const u32*>(ring + STAGES * STEP) + threadIdx.x)) {
        if (begin < end) seek();
        else step = shape.chunks;
    }

    __device__ void seek() {
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) rows[i] = outputs.row(pair, i);
    }

    // Starts the copies of a step, where one is left. Beyond a row's end they repeat its last chunk, which meets inputs of zero.
    __device__ void start(u32 stage) {
        if (step < shape.chunks) {
            u32 chunk = min(step + threadIdx.x % WARP, shape.chunks - 1);
            u32 scale = Weight<TYPE>::scale_index(StagedRow<TYPE>::group_of(chunk));
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) {
                u32 place = stage * STEP + i * THREADS;
                copy_16(codes + 16 * place, rows[i] + chunk, true);
                if (StagedRow<TYPE>::IS_CODE) copy_4(scales + 4 * place, WeightRow{rows[i], shape.chunks}.scale_words() + scale, true);
            }
            step += WARP;
            if (step >= min(segment + shape.segment, shape.chunks)) next_pair();
        }
        copies_commit();
    }

    __device__ void next_pair() {
        pair += WARPS;
        if (pair >= end) {
            pair = begin;
            segment += shape.segment;
        }
        step = segment;
        seek();
    }
};

// Starts loads of an array of constants into the second cache.
__device__ inline void prefetch(const float4* from, u32 quads) {
    constexpr u32 LINE = 8;
    for (u32 quad = LINE * threadIdx.x; quad < quads; quad += LINE * THREADS) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + quad));
}

// Computes `pairs` pairs of outputs, shared out over the grid. The input row is multiplied by `norm` and divided by its root mean square, unless `norm` is
// null. `outputs` says which rows make a pair, `row`; where the input is, `input`, which is the first to read what earlier kernels wrote; what storing
// a pair needs, `before`, which is loaded while its products are made; and stores it, `store`, for which all threads of the warp have both outputs.
// Dynamic shared memory: the ring, its scales, the staged row, and the sums of pairs where the row has several segments.
template <WeightType TYPE, typename Outputs>
__device__ inline void one_row(Outputs& outputs, u32 pairs, RowShape shape, const float4* norm, float epsilon) {
    extern __shared__ uint4 memory[];
    __shared__ float parts[WARPS];
    constexpr u32 RING = STAGES * STEP;
    const u32* scale_ring = reinterpret_cast<const u32*>(memory + RING);
    StagedRow<TYPE> staged = {memory + RING + (StagedRow<TYPE>::IS_CODE ? RING / 4 : 0), shape.segment};
    float2* partial = reinterpret_cast<float2*>(staged.end());
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // The first blocks take a pair more where there is a remainder.
    u32 share = pairs / gridDim.x, remainder = pairs % gridDim.x;
    u32 first_pair = share * blockIdx.x + min(blockIdx.x, remainder);
    u32 end = first_pair + share + (blockIdx.x < remainder ? 1 : 0);

    Stream<TYPE, Outputs> stream(outputs, shape, first_pair + warp, end, memory);
#pragma unroll
    for (u32 i = 0; i < STAGES; i++) stream.start(i);
    constexpr u32 CHUNK_QUADS = Weight<TYPE>::ELEMENTS / 4;
    if (norm) prefetch(norm, shape.chunks * CHUNK_QUADS);
    release_dependents();
    wait_for_inputs();
    const float4* input = outputs.input();

    u32 stage = 0;
    float squares = 0.0f, factor = 1.0f;
    for (u32 segment = 0; segment < shape.chunks; segment += shape.segment) {
        u32 chunks = min(shape.segment, shape.chunks - segment);
        bool is_last = chunks == shape.chunks - segment;
        // The segment before is multiplied.
        if (segment > 0) __syncthreads();
        u32 quad = segment * CHUNK_QUADS;
        squares += staged.stage(input + quad, norm ? norm + quad : norm, chunks);
        if (norm && is_last) {
            squares = warp_sum(squares);
            if (lane == 0) parts[warp] = squares;
        }
        __syncthreads();
        if (norm && is_last) {
            float total = 0.0f;
#pragma unroll
            for (u32 i = 0; i < WARPS; i++) total += parts[i];
            factor = rsqrtf(total / float(4 * CHUNK_QUADS * shape.chunks) + epsilon);
        }
        for (u32 pair = first_pair + warp; pair < end; pair += WARPS) {
            auto before = outputs.before(pair);
            float sums[ROWS] = {};
            for (u32 step = 0; step < chunks; step += WARP) {
                copies_wait<STAGES - 1>();
                uint4 codes[ROWS];
                u32 scales[ROWS] = {};
#pragma unroll
                for (u32 i = 0; i < ROWS; i++) {
                    u32 place = stage * STEP + i * THREADS + threadIdx.x;
                    codes[i] = memory[place];
                    if (StagedRow<TYPE>::IS_CODE) scales[i] = scale_ring[place];
                }
                stream.start(stage);
                stage = (stage + 1) % STAGES;
                staged.multiply(step + lane, codes, scales, sums);
            }
            float first = warp_sum(sums[0]), second = warp_sum(sums[1]);
            if (segment > 0) {
                float2 sum = partial[pair - first_pair];
                first += sum.x;
                second += sum.y;
            }
            if (is_last) outputs.store(pair, before, factor * first, factor * second);
            else if (lane == 0) partial[pair - first_pair] = make_float2(first, second);
        }
    }
}
