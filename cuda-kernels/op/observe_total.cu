// What: the largest logit of each head of a unit over the candidates of a pick, and the logarithm of the sum of powers against it, from those of tiles.
// Contract: engine/contract/src/op/observe.rs
// Grid: x = units of four query heads, y = picks; 256 threads share the tiles.
// Shared: a record for each warp.
// Numerics: f32, by thread and then over threads.
//:threads 256
#include "part/launch.cuh"
#include "part/observe.cuh"

// records: [pick][unit][tile]. stats: [pick][unit]. first_unit: the unit with which this round begins; group, blocks: query heads of a key head, and
// units of those. capacity: candidates that a row of scores has room for, in so many tiles.
extern "C" __global__ void __launch_bounds__(THREADS) observe_total(
    const u32* count, const PickDesc* picks, const Record* records, Stats* stats,
    u32 pick_rows, u32 first_unit, u32 group, u32 blocks, u32 capacity, u32 tiles) {
    __shared__ Record shared[THREADS / WARP];
    wait_for_inputs();
    release_dependents();
    u32 index = blockIdx.y, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    if (index >= min(*count, pick_rows)) return;
    u64 place = u64(index) * gridDim.x + blockIdx.x;
    u32 used = ceil_div(min(picks[index].candidates, capacity), TILE);
    Record total;
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) total.heads[h] = {LEAST, 0.0f};
#pragma unroll 4
    for (u32 tile = threadIdx.x; tile < used; tile += THREADS) {
        const float4* halves = reinterpret_cast<const float4*>(records + place * tiles + tile);
        float4 low = halves[0], high = halves[1];
        total.heads[0].add({low.x, low.y});
        total.heads[1].add({low.z, low.w});
        total.heads[2].add({high.x, high.y});
        total.heads[3].add({high.z, high.w});
    }
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) {
        total.heads[h].add_lanes(1);
        if (lane == 0) shared[warp].heads[h] = total.heads[h];
    }
    __syncthreads();
    if (threadIdx.x >= HEADS) return;
    Peak peak = shared[0].heads[threadIdx.x];
    for (u32 other = 1; other < THREADS / WARP; other++) peak.add(shared[other].heads[threadIdx.x]);
    // What belongs to no head gets no share.
    bool is_head = HEADS * ((first_unit + blockIdx.x) % blocks) + threadIdx.x < group;
    float* largest = reinterpret_cast<float*>(&stats[place].largest);
    float* logarithm = reinterpret_cast<float*>(&stats[place].logarithm);
    largest[threadIdx.x] = peak.largest;
    logarithm[threadIdx.x] = is_head ? log2f(fmaxf(peak.sum, 1e-30f)) : NO_HEAD;
}
