// What: out = the entries of the slots in which chosen tokens are resident; those that are not take the slots that were used longest ago.
// Contract: engine/contract/src/op/reside.rs
// Grid: x = stores; 256 threads, each of which takes one stretch of tokens or slots where their order matters.
// Shared: 2 KiB for a histogram and for sums.
// Numerics: none; the slots that are given are found by a radix select of stamps in four rounds of 8 bits.

const WORKGROUP: u32 = 256u;
//:import part/layout

// A slot that holds no token, and a chosen token that has no slot yet.
const NONE: u32 = 0xffffffffu;
// Words before the slots of a lane.
const HEAD: u32 = 4u;
// Bits of the tier of scratch rows in an entry.
const SCRATCH: u32 = 4u << ENTRY_INDEX_BITS;

struct Params {
    stores: u32,
    // Elements of a row of tokens and of out, and tokens that a row has room for.
    tokens_pitch: u32,
    capacity: u32,
    // Lanes, words of each, and its slots.
    lanes: u32,
    resident_pitch: u32,
    slots: u32,
    // Words of what is found for a store: how many tokens have no slot, and each with its slot.
    found_pitch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> stores: array<StoreDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read_write> resident: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;
@group(0) @binding(6) var<storage, read_write> found: array<u32>;

var<workgroup> histogram: array<atomic<u32>, 256>;
// The digit of the last stamp that gives its slots, and how many of those with it do.
var<workgroup> digit: vec2<u32>;
var<workgroup> sums: array<u32, 256>;

// The sum of all threads' values before this one's, and of all.
fn sums_before(thread: u32, value: u32) -> vec2<u32> {
    sums[thread] = value;
    workgroupBarrier();
    for (var step = 1u; step < WORKGROUP; step *= 2u) {
        var other = 0u;
        if thread >= step {
            other = sums[thread - step];
        }
        workgroupBarrier();
        sums[thread] += other;
        workgroupBarrier();
    }
    let result = vec2<u32>(sums[thread] - value, sums[WORKGROUP - 1u]);
    // All have read before the next sums.
    workgroupBarrier();
    return result;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if group.x >= min(count[0], params.stores) {
        return;
    }
    let store = stores[group.x];
    let slots = params.slots;
    let lane = min(store.lane, params.lanes - 1u);
    let head = lane * params.resident_pitch;
    let token_at = head + HEAD;
    let stamp_at = token_at + slots;
    let chosen = min(store.chosen, min(params.capacity, slots));
    let newest = max(store.length, 1u) - 1u;
    let list = group.x * params.tokens_pitch;
    let missed = group.x * params.found_pitch;
    let fresh = resident[head] != store.generation || resident[head + 1u] == NONE;
    let clock = select(resident[head + 1u], 0u, fresh) + 1u;
    for (var i = thread; i < chosen; i += WORKGROUP) {
        out[list + i] = NONE;
    }
    storageBarrier();

    // What is chosen and resident keeps its slot.
    for (var slot = thread; slot < slots; slot += WORKGROUP) {
        var token = resident[token_at + slot];
        var stamp = resident[stamp_at + slot];
        if fresh || token >= newest {
            token = NONE;
            stamp = 0u;
        }
        if token != NONE {
            var low = 0u;
            var high = chosen;
            while low < high {
                let middle = (low + high) / 2u;
                if tokens[list + middle] < token {
                    low = middle + 1u;
                } else {
                    high = middle;
                }
            }
            if low < chosen && tokens[list + low] == token {
                out[list + low] = SCRATCH + lane * slots + slot;
                stamp = clock;
            }
        }
        resident[token_at + slot] = token;
        resident[stamp_at + slot] = stamp;
    }
    storageBarrier();
    if thread == 0u {
        resident[head] = store.generation;
        resident[head + 1u] = clock;
    }

    // The others, in their order.
    var stretch = (chosen + WORKGROUP - 1u) / WORKGROUP;
    var begin = min(thread * stretch, chosen);
    var end = min(begin + stretch, chosen);
    var holds = 0u;
    for (var i = begin; i < end; i++) {
        holds += u32(out[list + i] == NONE);
    }
    let before = sums_before(thread, holds);
    let wanted = before.y;
    var at = before.x;
    for (var i = begin; i < end; i++) {
        if out[list + i] == NONE {
            found[missed + 2u + 2u * at] = i;
            at += 1u;
        }
    }
    if thread == 0u {
        found[missed] = wanted;
    }

    // The stamp up to which slots are given. No slot in use is: they have the highest stamp, and the others are enough.
    var threshold = 0u;
    var fixed = 0u;
    var remaining = wanted;
    for (var round = 0u; round < 4u; round++) {
        let shift = 24u - 8u * round;
        atomicStore(&histogram[thread], 0u);
        workgroupBarrier();
        for (var slot = thread; slot < slots; slot += WORKGROUP) {
            let stamp = resident[stamp_at + slot];
            if (stamp & fixed) == threshold {
                atomicAdd(&histogram[(stamp >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if thread == 0u {
            var rest = remaining;
            var last = 0u;
            while last < 255u && atomicLoad(&histogram[last]) < rest {
                rest -= atomicLoad(&histogram[last]);
                last += 1u;
            }
            digit = vec2<u32>(last, rest);
        }
        workgroupBarrier();
        threshold |= digit.x << shift;
        fixed |= 255u << shift;
        remaining = digit.y;
        // All have read the digit before the next round overwrites it.
        workgroupBarrier();
    }

    stretch = (slots + WORKGROUP - 1u) / WORKGROUP;
    begin = min(thread * stretch, slots);
    end = min(begin + stretch, slots);
    var below = 0u;
    var equal = 0u;
    for (var slot = begin; slot < end; slot++) {
        let stamp = resident[stamp_at + slot];
        below += u32(stamp < threshold);
        equal += u32(stamp == threshold);
    }
    below = sums_before(thread, below).x;
    equal = sums_before(thread, equal).x;
    at = below + min(equal, remaining);
    for (var slot = begin; slot < end; slot++) {
        let stamp = resident[stamp_at + slot];
        var gives = stamp < threshold;
        if stamp == threshold {
            gives = equal < remaining;
            equal += 1u;
        }
        if gives {
            found[missed + 3u + 2u * at] = slot;
            at += 1u;
        }
    }
    storageBarrier();
    for (var i = thread; i < wanted; i += WORKGROUP) {
        let index = found[missed + 2u + 2u * i];
        let slot = found[missed + 3u + 2u * i];
        let token = tokens[list + index];
        resident[token_at + slot] = token;
        resident[stamp_at + slot] = clock;
        out[list + index] = SCRATCH + lane * slots + slot;
        found[missed + 2u + 2u * i] = token;
        found[missed + 3u + 2u * i] = lane * slots + slot;
    }
    for (var i = chosen + thread; i < params.capacity; i += WORKGROUP) {
        out[list + i] = 0u;
    }
}
