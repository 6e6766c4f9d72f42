// What: heads += how many tokens each bin of a row's histogram holds, and what they weigh at a temperature of 1, for rows that rank.
// Contract: engine/contract/src/op/sample.rs
// Grid: x = chunks, y = rows; 256 threads, each of which takes every 256th token.
// Shared: 9.3 KiB for the chunk's histogram, the row's best and marks of recent tokens.
// Numerics: weights are integers below 2^32; those of a chunk are added in halves of 16 bits, those of a row in parts of 21.

//:import part/sample_bounds

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> samplings: array<SampleDesc>;
@group(0) @binding(3) var<storage, read> recent: array<u32>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> firsts: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> heads: array<atomic<u32>>;

var<workgroup> tokens: array<atomic<u32>, 256>;
var<workgroup> lowers: array<atomic<u32>, 256>;
var<workgroup> uppers: array<atomic<u32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.y;
    if row >= min(count[0], params.rows) {
        return;
    }
    let desc = sampling_of(row);
    if desc.rate == 0.0 || !ranks(desc) {
        return;
    }
    let best = row_best(row, thread);
    if best.x == 0u {
        return;
    }
    let largest = value_of(best.x);
    let first = group.x * CHUNK;
    atomicStore(&tokens[thread], 0u);
    atomicStore(&lowers[thread], 0u);
    atomicStore(&uppers[thread], 0u);
    mark_recent(desc, first, thread);
    for (var i = 0u; i < CHUNK / WORKGROUP; i++) {
        let key = key_at(row, desc, first, i * WORKGROUP + thread);
        if key != 0u {
            let logit = value_of(key);
            let bin = bin_of(largest, logit);
            let weight = weight_of(UNIT_RATE, largest, logit);
            atomicAdd(&tokens[bin], 1u);
            if weight != 0u {
                atomicAdd(&lowers[bin], weight & 0xffffu);
                atomicAdd(&uppers[bin], weight >> 16u);
            }
        }
    }
    workgroupBarrier();
    let held = atomicLoad(&tokens[thread]);
    if held != 0u {
        let at = row * HEAD + 4u * thread;
        let sum = wide_add(wide(atomicLoad(&lowers[thread])), wide_shifted(atomicLoad(&uppers[thread]), 16u));
        atomicAdd(&heads[at], held);
        atomicAdd(&heads[at + 1u], sum.x & 0x1fffffu);
        atomicAdd(&heads[at + 2u], (sum.x >> 21u) | (sum.y << 11u));
    }
}
