// What: sums = what the tokens of each chunk weigh that stay whatever their rank; listed = the tokens of each row whose rank decides, in any order.
// Contract: engine/contract/src/op/sample.rs
// Grid: x = chunks, y = rows; 256 threads, each of which takes every 256th token.
// Shared: 6.4 KiB for sums over bins, the row's best and marks of recent tokens.
// Numerics: weights are integers below 2^32, added in halves of 16 bits.

//:import part/sample_bounds

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> samplings: array<SampleDesc>;
@group(0) @binding(3) var<storage, read> recent: array<u32>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> firsts: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> heads: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> sums: array<vec2<u32>>;
@group(0) @binding(8) var<storage, read_write> listed: array<vec2<u32>>;

var<workgroup> lowers: atomic<u32>;
var<workgroup> uppers: atomic<u32>;
// Tokens that the chunk lists, and where they go.
var<workgroup> number: atomic<u32>;
var<workgroup> place: u32;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.y;
    if row >= min(count[0], params.rows) {
        return;
    }
    let desc = sampling_of(row);
    if desc.rate == 0.0 {
        return;
    }
    let best = row_best(row, thread);
    if best.x == 0u {
        return;
    }
    let largest = value_of(best.x);
    let bounds = row_bounds(row, desc, thread);
    let first = group.x * CHUNK;
    if thread == 0u {
        atomicStore(&lowers, 0u);
        atomicStore(&uppers, 0u);
        atomicStore(&number, 0u);
    }
    mark_recent(desc, first, thread);
    var low = 0u;
    var high = 0u;
    var lists = 0u;
    for (var i = 0u; i < CHUNK / WORKGROUP; i++) {
        let key = key_at(row, desc, first, i * WORKGROUP + thread);
        if key != 0u {
            let logit = value_of(key);
            let bin = bin_of(largest, logit);
            if bin < bounds.sure && weight_of(UNIT_RATE, largest, logit) >= desc.min_p {
                let weight = weight_of(desc.rate, largest, logit);
                low += weight & 0xffffu;
                high += weight >> 16u;
            }
            lists += u32(bin >= bounds.sure && bin < bounds.stop);
        }
    }
    atomicAdd(&lowers, low);
    atomicAdd(&uppers, high);
    var to = atomicAdd(&number, lists);
    workgroupBarrier();
    if thread == 0u {
        let sum = wide_add(wide(atomicLoad(&lowers)), wide_shifted(atomicLoad(&uppers), 16u));
        sums[row * params.chunks + group.x] = sum;
        let all = atomicLoad(&number);
        if all != 0u {
            place = atomicAdd(&heads[row * HEAD + LISTED], all);
        }
    }
    workgroupBarrier();
    to += row * params.vocabulary + place;
    for (var i = 0u; lists != 0u && i < CHUNK / WORKGROUP; i++) {
        let at = i * WORKGROUP + thread;
        let key = key_at(row, desc, first, at);
        if key != 0u {
            let bin = bin_of(largest, value_of(key));
            if bin >= bounds.sure && bin < bounds.stop {
                listed[to] = vec2<u32>(key, first + at);
                to += 1u;
            }
        }
    }
}
