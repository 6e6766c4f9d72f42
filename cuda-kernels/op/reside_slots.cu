// What: out = the entries of the slots in which chosen tokens are resident; those that are not take the slots that were used longest ago.
// Contract: engine/contract/src/op/reside.rs
// Grid: x = stores; a thread takes every 1024th token or slot.
// Shared: 8 KiB of counts, and sums.
// Numerics: none; the slots that are given are found by a radix select of stamps in three rounds of 11, 11 and 10 bits.
//:threads 1024
#include "part/digit.cuh"
#include "part/launch.cuh"

// A slot that holds no token, and a chosen token that has no slot yet.
constexpr u32 NONE = 0xffffffffu;
// Words before the slots of a lane.
constexpr u32 HEAD = 4;
// The tier of scratch rows in an entry.
constexpr u32 SCRATCH = 4u << ENTRY_INDEX_BITS;
constexpr u32 DIGIT_BITS = 11;
constexpr u32 BINS = 1u << DIGIT_BITS;
constexpr u32 EACH = BINS / THREADS;

// The place of `token` in an ascending list, or NONE.
__device__ inline u32 find(const u32* list, u32 length, u32 token) {
    u32 low = 0, high = length;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (list[middle] < token) low = middle + 1;
        else high = middle;
    }
    return low < length && list[low] == token ? low : NONE;
}

// tokens_pitch: elements of a row of tokens and of out. capacity: tokens that one has room for. resident_pitch: words of a lane. found_pitch: words
// of what is found for a store: how many tokens have no slot, an unused one, and each token with its slot.
extern "C" __global__ void __launch_bounds__(THREADS) reside_slots(
    const u32* tokens, const StoreDesc* stores, const u32* count, u32* resident, u32* out, u32* found,
    u32 store_rows, u32 tokens_pitch, u32 capacity, u32 lanes, u32 resident_pitch, u32 slots, u32 found_pitch) {
    __shared__ u32 histogram[BINS];
    __shared__ DigitSearch<THREADS> search;
    wait_for_inputs();
    release_dependents();
    u32 thread = threadIdx.x;
    if (blockIdx.x >= min(*count, store_rows)) return;
    StoreDesc store = stores[blockIdx.x];
    u32 lane = min(store.lane, lanes - 1);
    u32* head = resident + u64(lane) * resident_pitch;
    u32* held = head + HEAD;
    u32* stamps = held + slots;
    const u32* list = tokens + u64(blockIdx.x) * tokens_pitch;
    u32* entries = out + u64(blockIdx.x) * tokens_pitch;
    u32* missed = found + u64(blockIdx.x) * found_pitch;
    u32 entry = SCRATCH + lane * slots;
    u32 chosen = min(store.chosen, min(capacity, slots));
    u32 newest = store.length > 0 ? store.length - 1 : 0;
    bool fresh = head[0] != store.generation || head[1] == NONE;
    u32 clock = fresh ? 1 : head[1] + 1;
    for (u32 i = thread; i < capacity; i += THREADS) entries[i] = i < chosen ? NONE : 0;
    __syncthreads();
    if (thread == 0) {
        head[0] = store.generation;
        head[1] = clock;
    }

    // What is chosen and resident keeps its slot.
    for (u32 slot = thread; slot < slots; slot += THREADS) {
        u32 token = held[slot], stamp = stamps[slot];
        if (fresh || token >= newest) {
            token = NONE;
            stamp = 0;
        } else {
            u32 at = find(list, chosen, token);
            if (at != NONE) {
                entries[at] = entry + slot;
                stamp = clock;
            }
        }
        held[slot] = token;
        stamps[slot] = stamp;
    }
    __syncthreads();

    // The others, in their order.
    u32 wanted = 0;
    for (u32 first = 0; first < chosen; first += THREADS) {
        u32 i = first + thread;
        bool misses = i < chosen && entries[i] == NONE;
        Scanned<u32> scanned = block_scan<THREADS>(u32(misses), search.sums);
        if (misses) missed[2 + 2 * (wanted + scanned.before)] = i;
        wanted += scanned.all;
    }
    if (thread == 0) missed[0] = wanted;

    // The stamp up to which slots are given, inverted, so that the oldest are the largest. No slot in use is given: such stamps are the newest, and
    // there are enough others.
    u32 threshold = 0, stay = wanted, upper = 32;
#pragma unroll
    for (u32 round = 0; round < 3; round++) {
        u32 shift = upper > DIGIT_BITS ? upper - DIGIT_BITS : 0;
        u32 mask = (1u << (upper - shift)) - 1;
        for (u32 i = thread; i < BINS; i += THREADS) histogram[i] = 0;
        __syncthreads();
        for (u32 slot = thread; slot < slots; slot += THREADS) {
            u32 key = ~stamps[slot];
            if (round == 0 || key >> upper == threshold >> upper) atomicAdd(&histogram[key >> shift & mask], 1u);
        }
        __syncthreads();
        u32 counts[EACH];
#pragma unroll
        for (u32 i = 0; i < EACH; i++) counts[i] = histogram[thread * EACH + i];
        Digit digit = last_digit<THREADS>(counts, stay, &search);
        threshold |= (digit.value & mask) << shift;
        stay = digit.stay;
        upper = shift;
    }

    // Slots below the threshold in the lower half of a sum, those at it in the upper.
    u32 below = 0, equal = 0;
    for (u32 first = 0; first < slots; first += THREADS) {
        u32 slot = first + thread;
        u32 key = slot < slots ? ~stamps[slot] : 0;
        bool older = slot < slots && key > threshold, same = slot < slots && key == threshold;
        Scanned<u32> scanned = block_scan<THREADS>(u32(older) | u32(same) << 16, search.sums);
        u32 before = equal + (scanned.before >> 16);
        if (older || (same && before < stay)) {
            missed[3 + 2 * (below + (scanned.before & 0xffff) + min(before, stay))] = slot;
        }
        below += scanned.all & 0xffff;
        equal += scanned.all >> 16;
    }
    __syncthreads();
    for (u32 i = thread; i < wanted; i += THREADS) {
        u32 at = missed[2 + 2 * i], slot = missed[3 + 2 * i];
        u32 token = list[at];
        held[slot] = token;
        stamps[slot] = clock;
        entries[at] = entry + slot;
        missed[2 + 2 * i] = token;
        missed[3 + 2 * i] = lane * slots + slot;
    }
}
