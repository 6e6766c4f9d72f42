// What: logits of up to four query heads that share a key head, for 128 candidates of a pick; and of those each head's largest, and the sum of powers against it.
// Contract: engine/contract/src/op/observe.rs
// Grid: x = units of four query heads and tiles of candidates, a warp for each pair, units first; y = picks. LANES threads share a candidate.
// Shared: none.
// Numerics: f32 from f16 rows, by octet and then over octets; logits are powers of two.
//:threads 128
//:variant OCTETS = 4 | 8 | 16 | 32 | 64
#include "part/launch.cuh"
#include "part/math.cuh"
#include "part/observe.cuh"
#include "part/view.cuh"

// OCTETS is at least as many as a head has. Octets of a key that a thread takes, and threads that share a candidate.
constexpr u32 EACH = OCTETS > WARP ? OCTETS / WARP : 1;
constexpr u32 LANES = OCTETS / EACH;
// Candidates that these take at a time, consecutive ones, and a warp.
constexpr u32 TOKENS = 4;
constexpr u32 STEP = WARP / LANES * TOKENS;
// Of the sums of these candidates and all heads, those that a thread has in the end, and threads that have one candidate's.
constexpr u32 SUMS = TOKENS * HEADS;
constexpr u32 VALUES = SUMS > LANES ? SUMS / LANES : 1;
constexpr u32 SHARERS = LANES / TOKENS;
constexpr float LOG2_E = 1.44269504f;

// Octets of the keys of TOKENS candidates.
struct Keys {
    uint4 octets[TOKENS][EACH];

    // `slots` are those of 32 candidates, one in each lane; `first` is the one with which the thread's begin. `kv` is where the head's keys begin.
    __device__ void load(const uint4* kv, u32 pitch, u32 slots, u32 first, const u32 (&places)[EACH]) {
#pragma unroll
        for (u32 t = 0; t < TOKENS; t++) {
            const uint4* key = kv + u64(__shfl_sync(ALL, slots, first + t)) * pitch;
#pragma unroll
            for (u32 e = 0; e < EACH; e++) octets[t][e] = key[places[e]];
        }
    }
};

// Sums over the threads whose numbers differ in the bits up to STEP_, of KEPT values each: every step halves the values that a thread keeps, until one is
// left. Over LANES threads, each has VALUES of SUMS in the end, from number lane * SUMS / LANES on.
template <u32 STEP_, u32 KEPT>
__device__ inline void share_sums(float (&sums)[SUMS], u32 lane) {
    if constexpr (KEPT == 1) {
        sums[0] += __shfl_xor_sync(ALL, sums[0], STEP_);
    } else {
        bool upper = (lane & STEP_) != 0;
#pragma unroll
        for (u32 i = 0; i < KEPT / 2; i++) {
            float keeps = upper ? sums[i + KEPT / 2] : sums[i];
            float gives = upper ? sums[i] : sums[i + KEPT / 2];
            sums[i] = keeps + __shfl_xor_sync(ALL, gives, STEP_);
        }
    }
    if constexpr (STEP_ > 1) share_sums<STEP_ / 2, (KEPT > 1 ? KEPT / 2 : 1)>(sums, lane);
}

// Both numbers of a word, in two conversions.
__device__ inline void unpack(u32 pair, float& low, float& high) {
    asm("{ .reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }" : "=f"(low), "=f"(high) : "r"(pair));
}

// logits: [pick][unit][candidate][head]. records: [pick][unit][tile]. units: how many take part, from first_unit on; group, blocks: query heads of a key
// head, and units of those. heads, octets: heads of a query, octets of a head. kv_pitch: octets of a slot.
extern "C" __global__ void __launch_bounds__(THREADS) observe_logits(
    const float4* q, const uint4* kv, const RowDesc* rows, const u32* count, const ViewDesc* views, const u32* entries, const PickDesc* picks,
    float* logits, Record* records, u32 pick_rows, u32 first_unit, u32 units, u32 tiles, u32 heads, u32 group, u32 blocks, u32 octets, u32 kv_pitch,
    u32 capacity, float scale) {
    wait_for_inputs();
    release_dependents();
    u32 lane = threadIdx.x % WARP;
    u32 pair = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    u32 tile = pair / units, begin = tile * TILE;
    u32 index = blockIdx.y;
    if (index >= min(*count, pick_rows) || tile >= tiles) return;
    PickDesc pick = picks[index];
    u32 candidates = min(pick.candidates, capacity);
    if (begin >= candidates) return;
    u32 limit = min(candidates - begin, TILE);
    // Warps that follow one another read whole rows of the cache together.
    u32 unit = first_unit + pair % units;
    u32 kv_head = unit / blocks, first_head = HEADS * (unit % blocks);
    u32 unit_heads = min(group - first_head, HEADS);

    u32 member = lane % LANES, team = lane / LANES;
    u32 places[EACH];
    float query[EACH][HEADS][8];
#pragma unroll
    for (u32 e = 0; e < EACH; e++) {
        u32 octet = member + e * LANES;
        places[e] = min(octet, octets - 1);
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) {
            bool there = h < unit_heads && octet < octets;
            u64 head = u64(pick.row) * heads + kv_head * group + first_head + (there ? h : 0);
            const float4* from = q + 2 * (head * octets + places[e]);
            float4 low = from[0], high = from[1];
            float by = there ? scale * LOG2_E : 0.0f;
            query[e][h][0] = low.x * by;
            query[e][h][1] = low.y * by;
            query[e][h][2] = low.z * by;
            query[e][h][3] = low.w * by;
            query[e][h][4] = high.x * by;
            query[e][h][5] = high.y * by;
            query[e][h][6] = high.z * by;
            query[e][h][7] = high.w * by;
        }
    }

    ViewSlots view(views[rows[pick.row].view], entries);
    // The slot of a lane's candidate among 32; beyond the last one, the last one's.
    auto slot_from = [&](u32 at) { return view[pick.first + begin + min(at + lane, limit - 1)]; };
    u32 slots = slot_from(0), next_slots = slot_from(WARP);
    const uint4* head_keys = kv + kv_head * octets;
    u64 place = u64(index) * units + pair % units;
    float* out = logits + (place * capacity + begin) * HEADS;
    // The sums that are this thread's: of which candidate of a step, and from which head on.
    u32 own = team * TOKENS + member / SHARERS;
    u32 own_head = member % SHARERS * HEADS / SHARERS;
    Peak peaks[VALUES];
#pragma unroll
    for (u32 i = 0; i < VALUES; i++) peaks[i] = {LEAST, 0.0f};

    Keys keys;
    keys.load(head_keys, kv_pitch, slots, team * TOKENS, places);
    for (u32 at = 0; at < limit; at += WARP) {
#pragma unroll 2
        for (u32 step = 0; step < WARP; step += STEP) {
            // Keys are loaded a step ahead.
            Keys next;
            bool is_last = step + STEP == WARP;
            next.load(head_keys, kv_pitch, is_last ? next_slots : slots, (is_last ? 0 : step + STEP) + team * TOKENS, places);
            float sums[SUMS];
#pragma unroll
            for (u32 t = 0; t < TOKENS; t++) {
#pragma unroll
                for (u32 h = 0; h < HEADS; h++) sums[HEADS * t + h] = 0.0f;
#pragma unroll
                for (u32 e = 0; e < EACH; e++) {
                    uint4 octet = keys.octets[t][e];
                    float key[8];
                    unpack(octet.x, key[0], key[1]);
                    unpack(octet.y, key[2], key[3]);
                    unpack(octet.z, key[4], key[5]);
                    unpack(octet.w, key[6], key[7]);
#pragma unroll
                    for (u32 h = 0; h < HEADS; h++) {
#pragma unroll
                        for (u32 i = 0; i < 8; i++) sums[HEADS * t + h] = fmaf(query[e][h][i], key[i], sums[HEADS * t + h]);
                    }
                }
            }
            share_sums<LANES / 2, SUMS>(sums, member);
            u32 candidate = at + step + own;
            if (candidate < limit) {
#pragma unroll
                for (u32 i = 0; i < VALUES; i++) {
                    out[candidate * HEADS + own_head + i] = sums[i];
                    peaks[i].add({sums[i], 1.0f});
                }
            }
            keys = next;
        }
        slots = next_slots;
        next_slots = slot_from(at + 2 * WARP);
    }

#pragma unroll
    for (u32 i = 0; i < VALUES; i++) {
        peaks[i].add_lanes(SHARERS);
        if (lane < SHARERS) records[place * tiles + tile].heads[own_head + i] = peaks[i];
    }
}
