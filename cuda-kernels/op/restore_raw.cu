// What: restored rows of the raw tokens among those that are missing: keys normalised and turned, as f16.
// Contract: engine/contract/src/op/restore.rs
// Grid: x = any number of blocks, each with its share of the rows, in parts of 32; a warp a head of a raw token.
// Shared: the raw tokens of a part.
// Numerics: f32; one rounding to f16, ties to even.
//:threads 512
#include "part/launch.cuh"
#include "part/reduce.cuh"
#include "part/restored.cuh"
#include "part/rotation.cuh"

constexpr u32 WARPS = THREADS / WARP;

// A raw token: where it lies, its position, and where it goes.
struct RawToken {
    u32 source;
    u32 position;
    u32 slot;
};

// capacity: rows at most. heads: keys' and values'. rope_pitch, kv_pitch: elements of a row of the table, and of raw and of kv. slots: rows of kv.
extern "C" __global__ void __launch_bounds__(THREADS, 2) restore_raw(
    const u32* tokens, const StoreDesc* stores, const u32* entries, const u32* count, const f16* raw, const float* norm, const float* table, f16* kv,
    u32 capacity, u32 first, u32 heads, u32 head_dim, u32 table_rows, u32 rope_pitch, u32 kv_pitch, u32 slots, float epsilon) {
    __shared__ RawToken found[WARP];
    __shared__ u32 found_count;
    wait_for_inputs();
    release_dependents();
    u32 rows = min(*count, capacity), lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (u32 part = blockIdx.x * WARP; part < rows; part += gridDim.x * WARP) {
        if (warp == 0) {
            RestoredToken token = {0, ABSENT, 0};
            if (part + lane < rows) token = restored_token<MISSING>(tokens, stores, first + part + lane, 0, 0);
            bool is_raw = false;
            RawToken own = {0, token.position, token.slot};
            if (token.position != ABSENT && token.slot < slots) {
                StoreDesc store = stores[token.store];
                u32 after = token.position - store.sinks;
                bool is_sink = token.position < store.sinks;
                is_raw = is_sink || after >= store.compressed;
                u32 place = is_sink ? token.position : after - store.compressed;
                u32 page = store.pages + (is_sink ? 0 : ceil_div(store.sinks, PAGE)) + place / PAGE;
                if (is_raw) own.source = entry_index(entries[page]) * PAGE + place % PAGE;
            }
            u32 all = __ballot_sync(ALL, is_raw);
            if (is_raw) found[__popc(all & ((1u << lane) - 1))] = own;
            if (lane == 0) found_count = __popc(all);
        }
        __syncthreads();
        u32 half = head_dim / 2, units = found_count * heads;
        for (u32 unit = warp; unit < units; unit += WARPS) {
            RawToken token = found[unit / heads];
            u32 head = unit % heads;
            const f16* from = raw + u64(token.source) * kv_pitch + head * head_dim;
            f16* to = kv + u64(token.slot) * kv_pitch + head * head_dim;
            if (2 * head >= heads) {
                for (u32 j = lane; j < head_dim; j += WARP) to[j] = from[j];
                continue;
            }
            float factor = 1.0f;
            if (norm != nullptr) {
                float squares = 0.0f;
                for (u32 j = lane; j < head_dim; j += WARP) squares += f32_of(from[j]) * f32_of(from[j]);
                factor = 1.0f / sqrtf(warp_sum(squares) / float(head_dim) + epsilon);
            }
            Rotation rotation = Rotation::at(table, token.position, table_rows, rope_pitch, head_dim);
            for (u32 j = lane; j < half; j += WARP) {
                float a[1] = {f32_of(from[j])}, b[1] = {f32_of(from[j + half])};
                if (norm != nullptr) {
                    a[0] *= factor * norm[j];
                    b[0] *= factor * norm[j + half];
                }
                rotation.turn(j, a, b);
                to[j] = f16_of(a[0]);
                to[j + half] = f16_of(b[0]);
            }
        }
        __syncthreads();
    }
}
