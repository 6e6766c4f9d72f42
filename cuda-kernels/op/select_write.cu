// What: out[p] = entries (or places) of the tokens before the candidates of pick p, of its `keep` best candidates, and of those after them, in order.
// Contract: engine/contract/src/op/select.rs
// Grid: x = parts of the candidates, y = picks; a thread takes four candidates at a time.
// Shared: sums.
// Numerics: integers.
//:threads 512
#include "part/launch.cuh"
#include "part/ranking.cuh"
#include "part/view.cuh"

static_assert(THREADS == OUTER_BINS, "a thread for each value of the last digit");

// What is given of tokens, and where.
struct Output {
    u32* row;
    u32 capacity;
    ViewSlots slots;
    bool places;

    __device__ void put(u32 place, u32 token) const {
        if (place < capacity) row[place] = places ? token : slots[token];
    }
};

// Two sums at once: of candidates above the threshold, and of those at it.
__device__ inline u64 both(u32 above, u32 equal) { return u64(above) << 32 | equal; }

// scores_pitch, out_pitch: elements of rows. out_capacity: tokens that a row of out has room for. work_pitch: words of a pick's share of the
// working memory. places: whether places are given rather than entries.
extern "C" __global__ void __launch_bounds__(THREADS) select_write(
    const float* scores, const RowDesc* rows, const u32* count, const PickDesc* picks, u32* work, const ViewDesc* views, const u32* entries, u32* out,
    u32 pick_rows, u32 parts, u32 capacity, u32 scores_pitch, u32 work_pitch, u32 overlap, u32 out_pitch, u32 out_capacity, u32 places) {
    __shared__ u64 sums[THREADS / WARP];
    __shared__ DigitSearch<THREADS> search;
    wait_for_inputs();
    release_dependents();
    u32 thread = threadIdx.x, index = blockIdx.y;
    if (index >= min(*count, pick_rows)) return;
    Part part(picks[index], rows, capacity, blockIdx.x, parts, overlap);
    PickDesc pick = part.pick;
    RowDesc row = rows[pick.row];
    ViewDesc view = views[row.view];
    Output output = {out + u64(index) * out_pitch, out_capacity, ViewSlots(view, entries), places != 0};
    Ranks ranks = {work + u64(index) * work_pitch, parts};

    if (blockIdx.x < part.used) {
        Threshold threshold = *ranks.threshold(2);
        // Of the thread's last digit: how many candidates have it in all parts, and in those before this one.
        u32 counts[1] = {0};
        u32 earlier = 0;
#pragma unroll 8
        for (u32 other = 0; other < part.used; other++) {
            u32 here = ranks.last(other)[thread];
            counts[0] += here;
            earlier += other < blockIdx.x ? here : 0;
        }
        u32 above = thread < blockIdx.x ? *ranks.above(thread) : 0;
        Digit digit = last_digit<THREADS>(counts, threshold.stay, &search);
        u32 key = threshold.key | digit.value;
        u64 own = both(above + (thread > digit.value ? earlier : 0), thread == digit.value ? earlier : 0);
        u64 before = block_scan<THREADS>(own, sums).all;

        for (u32 first = part.begin; first < part.end; first += 4 * THREADS) {
            u32 at = first + 4 * thread;
            u32 keys[4] = {0, 0, 0, 0};
            if (at < part.end) part.keys(scores + u64(index) * scores_pitch, at, keys);
            u64 holds = 0;
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                if (at + i < part.end) holds += both(keys[i] > key, keys[i] == key);
            }
            Scanned<u64> scanned = block_scan<THREADS>(holds, sums);
            u64 mine = before + scanned.before;
            before += scanned.all;
            // Of those at the threshold the first stay.
            u32 equal = u32(mine);
            u32 place = pick.first + u32(mine >> 32) + min(equal, digit.stay);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                if (at + i >= part.end) continue;
                bool stays = keys[i] > key || (keys[i] == key && equal < digit.stay);
                equal += keys[i] == key;
                if (stays) output.put(place++, pick.first + at + i);
            }
        }
    }

    // What is not chosen among is shared by all parts.
    u32 share = blockIdx.x * THREADS + thread, step = gridDim.x * THREADS;
    for (u32 i = share; i < pick.first; i += step) output.put(i, i);
    u32 tail = pick.first + part.candidates;
    u32 end = max(view_visible(view, row.position), tail);
    u32 dropped = part.candidates - part.keep;
    for (u32 i = tail + share; i < end; i += step) output.put(i - dropped, i);
    for (u32 i = end - dropped + share; i < out_capacity; i += step) output.row[i] = 0;
}
