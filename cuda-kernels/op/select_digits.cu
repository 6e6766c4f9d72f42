// What: how many candidates of a pick have each value of digit DIGIT of their key, among those that have the threshold's earlier digits.
// Contract: engine/contract/src/op/select.rs
// Grid: x = parts of the candidates, y = picks; a thread takes four candidates at a time.
// Shared: 2 KiB of counts, or 32 for the middle digit, and sums.
// Numerics: integers: a radix select in three rounds of 9, 13 and 9 bits.
//:threads 512
//:variant DIGIT = 0 | 1 | 2
#include "part/launch.cuh"
#include "part/ranking.cuh"

// scores_pitch: elements of a row of scores. work_pitch: words of a pick's share of the working memory.
extern "C" __global__ void __launch_bounds__(THREADS) select_digits(
    const float* scores, const RowDesc* rows, const u32* count, const PickDesc* picks, u32* work,
    u32 pick_rows, u32 parts, u32 capacity, u32 scores_pitch, u32 work_pitch, u32 overlap) {
    constexpr u32 BINS = DIGIT == 1 ? MIDDLE_BINS : OUTER_BINS;
    constexpr u32 SHIFT = DIGIT == 0 ? FIRST_SHIFT : DIGIT == 1 ? MIDDLE_SHIFT : 0;
    __shared__ u32 histogram[BINS];
    __shared__ DigitSearch<THREADS> search;
    wait_for_inputs();
    release_dependents();
    u32 thread = threadIdx.x, index = blockIdx.y;
    if (index >= min(*count, pick_rows)) return;
    Part part(picks[index], rows, capacity, blockIdx.x, parts, overlap);
    if (blockIdx.x >= part.used) return;
    Ranks ranks = {work + u64(index) * work_pitch, parts};
    for (u32 i = thread; i < BINS; i += THREADS) histogram[i] = 0;

    Threshold threshold = {0, part.keep};
    if (DIGIT == 0) {
        for (u32 i = blockIdx.x * THREADS + thread; i < MIDDLE_BINS; i += part.used * THREADS) ranks.middle()[i] = 0;
    } else if (DIGIT == 1) {
        u32 counts[1] = {0};
#pragma unroll 8
        for (u32 other = 0; other < part.used; other++) counts[0] += ranks.first(other)[thread];
        Digit digit = last_digit<THREADS>(counts, part.keep, &search);
        threshold = {digit.value << FIRST_SHIFT, digit.stay};
    } else {
        constexpr u32 EACH = MIDDLE_BINS / THREADS;
        threshold = *ranks.threshold(1);
        u32 counts[EACH];
        const uint4* quads = reinterpret_cast<const uint4*>(ranks.middle()) + thread * (EACH / 4);
#pragma unroll
        for (u32 i = 0; i < EACH / 4; i++) {
            uint4 quad = quads[i];
            counts[4 * i] = quad.x;
            counts[4 * i + 1] = quad.y;
            counts[4 * i + 2] = quad.z;
            counts[4 * i + 3] = quad.w;
        }
        Digit digit = last_digit<THREADS>(counts, threshold.stay, &search);
        threshold = {threshold.key | digit.value << MIDDLE_SHIFT, digit.stay};
    }
    if (DIGIT > 0 && blockIdx.x == 0 && thread == 0) *ranks.threshold(DIGIT) = threshold;
    __syncthreads();

    // Candidates whose earlier digits are above the threshold's.
    u32 above = 0;
    for (u32 at = part.begin + 4 * thread; at < part.end; at += 4 * THREADS) {
        u32 keys[4];
        part.keys(scores + u64(index) * scores_pitch, at, keys);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            if (at + i >= part.end) continue;
            u32 earlier = 0, known = 0;
            if (DIGIT == 1) {
                earlier = keys[i] >> FIRST_SHIFT;
                known = threshold.key >> FIRST_SHIFT;
            } else if (DIGIT == 2) {
                earlier = keys[i] >> MIDDLE_SHIFT;
                known = threshold.key >> MIDDLE_SHIFT;
            }
            if (earlier == known) atomicAdd(&histogram[keys[i] >> SHIFT & (BINS - 1)], 1u);
            above += earlier > known;
        }
    }
    __syncthreads();
    if (DIGIT == 1) {
        for (u32 i = thread; i < BINS; i += THREADS) {
            u32 here = histogram[i];
            if (here > 0) atomicAdd(&ranks.middle()[i], here);
        }
        return;
    }
    u32* counts = DIGIT == 0 ? ranks.first(blockIdx.x) : ranks.last(blockIdx.x);
    for (u32 i = thread; i < BINS; i += THREADS) counts[i] = histogram[i];
    if (DIGIT == 2) {
        u32 all = block_sum<THREADS>(above, search.sums);
        if (thread == 0) *ranks.above(blockIdx.x) = all;
    }
}
