// What: scores[p, j] = the largest share that any head gives candidate j of pick p; zero beyond the candidates.
// Contract: engine/contract/src/op/observe.rs
// Grid: x = candidates / THREADS, y = picks; a thread a candidate.
// Shared: none.
// Numerics: f32; shares are compared by their logarithms, so that one power is taken of each candidate.
//:threads 128
#include "part/launch.cuh"
#include "part/observe.cuh"

// logits: [pick][unit][candidate]. stats: [pick][unit]. resume: whether an earlier round has seen other units. scores_pitch: elements of a row.
extern "C" __global__ void __launch_bounds__(THREADS) observe_score(
    const u32* count, const PickDesc* picks, const float4* logits, const Stats* stats, float* scores,
    u32 pick_rows, u32 units, u32 capacity, u32 scores_pitch, u32 resume) {
    wait_for_inputs();
    release_dependents();
    u32 index = blockIdx.y, candidate = blockIdx.x * THREADS + threadIdx.x;
    if (index >= min(*count, pick_rows) || candidate >= capacity) return;
    float best = LEAST;
    if (candidate < picks[index].candidates) {
#pragma unroll 4
        for (u32 unit = 0; unit < units; unit++) {
            u64 place = u64(index) * units + unit;
            float4 logit = logits[place * capacity + candidate];
            Stats unit_stats = stats[place];
            float4 largest = unit_stats.largest, logarithm = unit_stats.logarithm;
            float low = fmaxf(logit.x - largest.x - logarithm.x, logit.y - largest.y - logarithm.y);
            float high = fmaxf(logit.z - largest.z - logarithm.z, logit.w - largest.w - logarithm.w);
            best = fmaxf(best, fmaxf(low, high));
        }
    }
    float* out = scores + u64(index) * scores_pitch + candidate;
    float score = exp2f(best);
    *out = resume != 0 ? fmaxf(score, *out) : score;
}
