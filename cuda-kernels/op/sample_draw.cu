// What: out = the token of each row: the most likely one, or one that is drawn from those that stay.
// Contract: engine/contract/src/op/sample.rs
// Grid: x = rows; a thread takes every 256th listed token, one chunk, and eight tokens of the chunk where the draw falls.
// Shared: 4 KiB for few listed tokens or a histogram, marks of recent tokens, and sums.
// Numerics: weights are integers below 2^32, added in parts that leave room for all tokens of a row; no rounding.
//:threads 256
#include "part/launch.cuh"
#include "part/sample_bounds.cuh"

// A thread at which a sum is reached, and how much of it is left there.
struct Reached {
    u32 thread;
    u64 rest;
};

// A place in the order, and the sum of the weights up to it.
struct Last {
    u64 order;
    u64 weight;
};

// For each digit or each chunk a sum, in parts that shared memory adds at once.
struct PartSums {
    u32 low[BINS];
    u32 middle[BINS];
    u32 high[BINS];
};

// A list that has a thread for each of its tokens.
struct FewTokens {
    u64 orders[THREADS];
    u32 weights[THREADS];
};

struct Shared {
    union {
        PartSums parts;
        FewTokens few;
    };
    Marks marks;
    BoundsSearch search;
    Reached reached;
    Last last;
};

// A row that draws: its listed tokens and its largest logit.
struct Drawing {
    const u64* listed;
    u32 length;
    float largest;
    SampleDesc desc;

    __device__ u32 unit_weight(u64 order) const { return weight_of(UNIT_RATE, largest, logit_at(order)); }
};

// Finds the thread at which the sum of what threads have reaches `least`; all take part.
__device__ inline Reached reach(u64 own, u64 least, Shared* shared) {
    u64 before = block_scan<THREADS>(own, shared->search.weights).before;
    if (before < least && least <= before + own) shared->reached = {threadIdx.x, least - before};
    __syncthreads();
    return shared->reached;
}

// The place in the order at which the number of listed tokens, or what they weigh at a temperature of 1, reaches `least`: digit by digit.
__device__ inline u64 descend(const Drawing& row, u64 least, bool weighs, Shared* shared) {
    PartSums& parts = shared->parts;
    u64 prefix = 0;
    for (u32 round = 0; round < 8; round++) {
        u32 shift = 56 - 8 * round;
        __syncthreads();
        parts.low[threadIdx.x] = parts.middle[threadIdx.x] = parts.high[threadIdx.x] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < row.length; i += THREADS) {
            u64 order = row.listed[i];
            if (round > 0 && (order ^ prefix) >> (shift + 8) != 0) continue;
            u32 digit = u32(order >> shift) & 255;
            u32 measure = weighs ? row.unit_weight(order) : 1;
            atomicAdd(&parts.low[digit], measure & 0x7ff);
            if (measure > 0x7ff) {
                atomicAdd(&parts.middle[digit], measure >> 11 & 0x7ff);
                atomicAdd(&parts.high[digit], measure >> 22);
            }
        }
        __syncthreads();
        u64 own = parts.low[threadIdx.x] + (u64(parts.middle[threadIdx.x]) << 11) + (u64(parts.high[threadIdx.x]) << 22);
        Reached reached = reach(own, least, shared);
        least = reached.rest;
        prefix |= u64(reached.thread) << shift;
    }
    return prefix;
}

// As `last_place`, of a list that has a thread for each of its tokens: it adds up what does not come after that.
__device__ inline u64 last_of_few(const Drawing& row, const Bounds& bounds, Shared* shared) {
    FewTokens& few = shared->few;
    bool listed = threadIdx.x < row.length;
    u64 order = listed ? row.listed[threadIdx.x] : NOWHERE;
    u32 own = listed ? row.unit_weight(order) : 0;
    __syncthreads();
    few.orders[threadIdx.x] = order;
    few.weights[threadIdx.x] = own;
    __syncthreads();
    Tally up_to = bounds.before;
#pragma unroll 4
    for (u32 i = 0; i < row.length; i++) {
        if (few.orders[i] > order) continue;
        up_to.tokens++;
        up_to.weight += few.weights[i];
    }
    auto ends = [&](bool here) {
        __syncthreads();
        if (here) shared->last = {order, up_to.weight};
        __syncthreads();
        return shared->last;
    };
    Last last = {NOWHERE, bounds.total};
    if (bounds.ranked) last = ends(listed && up_to.tokens == row.desc.top_k);
    if (row.desc.top_p == KEEP_ALL) return last.order;
    u64 least = max(share_of(last.weight, row.desc.top_p), u64(1));
    return ends(listed && up_to.weight - own < least && least <= up_to.weight).order;
}

// The last place in the order of what stays by its rank and by what lies before it.
__device__ inline u64 last_place(const Drawing& row, const Bounds& bounds, Shared* shared) {
    if (row.length <= THREADS) return last_of_few(row, bounds, shared);
    u64 last = NOWHERE;
    u64 total = bounds.total;
    if (bounds.ranked) last = descend(row, row.desc.top_k - bounds.before.tokens, false, shared);
    if (row.desc.top_p == KEEP_ALL) return last;
    if (bounds.ranked) {
        u64 sum = 0;
        for (u32 i = threadIdx.x; i < row.length; i += THREADS) {
            u64 order = row.listed[i];
            if (order <= last) sum += row.unit_weight(order);
        }
        total = bounds.before.weight + block_scan<THREADS>(sum, shared->search.weights).all;
    }
    u64 least = max(share_of(total, row.desc.top_p), u64(1));
    return descend(row, least - bounds.before.weight, true, shared);
}

// pitch: elements of a row of logits. recents: tokens of the list of recent ones. draws: whether any row draws.
extern "C" __global__ void __launch_bounds__(THREADS) sample_draw(
    const u32* logits, const SampleDesc* samplings, const u32* recent, const u32* count, const u64* firsts, const RowHead* heads, const u64* sums,
    const u64* listed, u32* out, u32 rows, u32 vocabulary, u32 pitch, u32 recents, u32 chunks, u32 draws) {
    __shared__ Shared shared;
    wait_for_inputs();
    release_dependents();
    u32 thread = threadIdx.x, index = blockIdx.x;
    if (index >= min(*count, rows)) return;
    SampleRow row = {logits + u64(index) * pitch, vocabulary, samplings[index]};
    const SampleDesc& desc = row.desc;
    u64 best = first_of_row(firsts + u64(index) * chunks, chunks, shared.search.weights);
    if (best == NOWHERE || draws == 0 || desc.rate == 0.0f) {
        if (thread == 0) out[index] = best == NOWHERE ? NO_CHOICE : token_at(best);
        return;
    }
    float largest = logit_at(best);
    Bounds bounds = row_bounds(desc, heads[index], &shared.search);
    bool ranked = bounds.sure < bounds.stop;
    Drawing drawing = {listed + u64(index) * vocabulary, ranked ? min(heads[index].listed, vocabulary) : 0, largest, desc};
    u64 last = ranked ? last_place(drawing, bounds, &shared) : NOWHERE;
    auto weight = [&](u64 order) {
        bool stays = order <= last && order != NOWHERE && drawing.unit_weight(order) >= desc.min_p;
        return stays ? weight_of(desc.rate, largest, logit_at(order)) : 0;
    };

    // What each chunk weighs: its tokens that stay whatever their rank, and those that do by their rank.
    PartSums& parts = shared.parts;
    __syncthreads();
    parts.low[thread] = parts.high[thread] = 0;
    __syncthreads();
    for (u32 i = thread; i < drawing.length; i += THREADS) {
        u64 order = drawing.listed[i];
        u32 own = weight(order);
        u32 chunk = token_at(order) / CHUNK;
        atomicAdd(&parts.low[chunk], own & 0xffff);
        atomicAdd(&parts.high[chunk], own >> 16);
    }
    __syncthreads();
    u64 chunk = (u64(parts.high[thread]) << 16) + parts.low[thread];
    if (thread < chunks) chunk += sums[u64(index) * chunks + thread];
    u64 all = block_scan<THREADS>(chunk, shared.search.weights).all;
    // A sum exceeds what is drawn where it reaches one more.
    Reached at_chunk = reach(chunk, share_of(all, desc.draw) + 1, &shared);

    u32 first = at_chunk.thread * CHUNK;
    shared.marks.set(desc, recent, recents, first);
    constexpr u32 EACH = CHUNK / THREADS;
    u32 weights[EACH];
    u64 sum = 0;
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
        weights[i] = weight(order_in_chunk(row, shared.marks, first, thread * EACH + i));
        sum += weights[i];
    }
    Reached at_thread = reach(sum, at_chunk.rest, &shared);
    if (thread != at_thread.thread) return;
    u64 rest = at_thread.rest;
    u32 at = 0;
    bool found = false;
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
        if (found) continue;
        at = i;
        found = rest <= weights[i];
        rest -= weights[i];
    }
    out[index] = first + thread * EACH + at;
}
