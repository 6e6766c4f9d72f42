// What: out = the token of each row: the most likely one, or one that is drawn from those that stay.
// Contract: engine/contract/src/op/sample.rs
// Grid: x = rows; 256 threads, each of which takes every 256th listed token, one chunk, and eight tokens of the chunk where the draw falls.
// Shared: 11.4 KiB for histograms, sums of chunks and over threads, the row's best and marks of recent tokens.
// Numerics: weights are integers below 2^32, added in parts that leave room for all tokens of a row; no rounding.

//:import part/sample_bounds

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> samplings: array<SampleDesc>;
@group(0) @binding(3) var<storage, read> recent: array<u32>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> firsts: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> heads: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read> sums: array<vec2<u32>>;
@group(0) @binding(8) var<storage, read> listed: array<vec2<u32>>;
@group(0) @binding(9) var<storage, read_write> out: array<u32>;

// For each digit, or each chunk, sums in parts of 11 or 16 bits.
var<workgroup> low: array<atomic<u32>, 256>;
var<workgroup> middle: array<atomic<u32>, 256>;
var<workgroup> high: array<atomic<u32>, 256>;
// What one thread found for all: where a sum is reached, and how much of it is left there.
var<workgroup> found: vec3<u32>;

// A listed token in the order of falling logits, of equal ones the lower token first.
fn order_of(listing: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(~listing.x, listing.y);
}

fn after(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y > b.y);
}

// Finds the thread at which the sum of what threads have, as `tally_scan` left it, reaches `least`; all threads call it.
fn reach(least: vec2<u32>, thread: u32) -> vec3<u32> {
    let before = tally_before(thread).yz;
    if wide_less(before, least) && !wide_less(sums_before[thread].yz, least) {
        found = vec3<u32>(thread, wide_sub(least, before));
    }
    workgroupBarrier();
    let all = found;
    workgroupBarrier();
    return all;
}

// The place in the order at which the number of a row's listed tokens, or what they weigh at a temperature of 1, reaches `least`: digit by
// digit, in four of the key and three of the token.
fn descend(row: u32, least: vec2<u32>, weighs: bool, largest: f32, thread: u32) -> vec2<u32> {
    let begin = row * params.vocabulary;
    let length = min(atomicLoad(&heads[row * HEAD + LISTED]), params.vocabulary);
    var rest = least;
    var prefix = vec2<u32>();
    var known = vec2<u32>();
    for (var round = 0u; round < 7u; round++) {
        let of_key = round < 4u;
        let shift = select(48u - 8u * round, 24u - 8u * round, of_key);
        atomicStore(&low[thread], 0u);
        atomicStore(&middle[thread], 0u);
        atomicStore(&high[thread], 0u);
        workgroupBarrier();
        for (var i = thread; i < length; i += WORKGROUP) {
            let listing = listed[begin + i];
            let order = order_of(listing);
            if all((order & known) == prefix) {
                let digit = (select(order.y, order.x, of_key) >> shift) & 255u;
                var measure = 1u;
                if weighs {
                    measure = weight_of(UNIT_RATE, largest, value_of(listing.x));
                }
                atomicAdd(&low[digit], measure & 0x7ffu);
                if measure > 0x7ffu {
                    atomicAdd(&middle[digit], (measure >> 11u) & 0x7ffu);
                    atomicAdd(&high[digit], measure >> 22u);
                }
            }
        }
        workgroupBarrier();
        let lower = wide_add(wide(atomicLoad(&low[thread])), wide_shifted(atomicLoad(&middle[thread]), 11u));
        let sum = wide_add(lower, wide_shifted(atomicLoad(&high[thread]), 22u));
        _ = tally_scan(vec4<u32>(0u, sum, 0u), thread);
        let reached = reach(rest, thread);
        rest = reached.yz;
        prefix |= select(vec2<u32>(0u, reached.x << shift), vec2<u32>(reached.x << shift, 0u), of_key);
        known |= select(vec2<u32>(0u, 255u << shift), vec2<u32>(255u << shift, 0u), of_key);
    }
    return prefix;
}

// As `last_place`, of a list of which each thread takes one token: it adds up what does not come after that.
fn last_of_few(row: u32, length: u32, desc: SampleDesc, largest: f32, bounds: Bounds, thread: u32) -> vec2<u32> {
    var order = vec2<u32>(0xffffffffu, 0xffffffffu);
    var own = 0u;
    if thread < length {
        let listing = listed[row * params.vocabulary + thread];
        order = order_of(listing);
        own = weight_of(UNIT_RATE, largest, value_of(listing.x));
    }
    workgroupBarrier();
    sums_before[thread] = vec4<u32>(order, own, 0u);
    workgroupBarrier();
    var up_to = bounds.before;
    for (var i = 0u; i < length; i++) {
        let other = sums_before[i];
        if !after(other.xy, order) {
            up_to = tally_add(up_to, vec4<u32>(1u, other.z, 0u, 0u));
        }
    }
    var last = vec2<u32>(0xffffffffu, 0xffffffffu);
    var total = bounds.total;
    if bounds.ranked {
        if thread < length && up_to.x == desc.top_k {
            found = vec3<u32>(thread, up_to.yz);
        }
        workgroupBarrier();
        last = sums_before[found.x].xy;
        total = found.yz;
        workgroupBarrier();
    }
    if desc.top_p == 0xffffffffu {
        return last;
    }
    let least = max_one(wide_share(total, desc.top_p));
    if thread < length && wide_less(wide_sub(up_to.yz, wide(own)), least) && !wide_less(up_to.yz, least) {
        found = vec3<u32>(thread, 0u, 0u);
    }
    workgroupBarrier();
    last = sums_before[found.x].xy;
    workgroupBarrier();
    return last;
}

// The last place in the order of what stays by its rank and by what lies before it.
fn last_place(row: u32, desc: SampleDesc, largest: f32, bounds: Bounds, thread: u32) -> vec2<u32> {
    let listings = min(atomicLoad(&heads[row * HEAD + LISTED]), params.vocabulary);
    if listings <= WORKGROUP {
        return last_of_few(row, listings, desc, largest, bounds, thread);
    }
    var last = vec2<u32>(0xffffffffu, 0xffffffffu);
    var total = bounds.total;
    if bounds.ranked {
        last = descend(row, wide(desc.top_k - bounds.before.x), false, largest, thread);
    }
    if desc.top_p == 0xffffffffu {
        return last;
    }
    if bounds.ranked {
        let begin = row * params.vocabulary;
        var sum = vec2<u32>();
        for (var i = thread; i < listings; i += WORKGROUP) {
            let listing = listed[begin + i];
            if !after(order_of(listing), last) {
                sum = wide_add(sum, wide(weight_of(UNIT_RATE, largest, value_of(listing.x))));
            }
        }
        _ = tally_scan(vec4<u32>(0u, sum, 0u), thread);
        total = wide_add(bounds.before.yz, sums_before[WORKGROUP - 1u].yz);
    }
    let least = max_one(wide_share(total, desc.top_p));
    return descend(row, wide_sub(least, bounds.before.yz), true, largest, thread);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.x;
    if row >= min(count[0], params.rows) {
        return;
    }
    let desc = sampling_of(row);
    let best = row_best(row, thread);
    if best.x == 0u || desc.rate == 0.0 {
        if thread == 0u {
            out[row] = select(best.y, 0xffffffffu, best.x == 0u);
        }
        return;
    }
    let largest = value_of(best.x);
    let bounds = row_bounds(row, desc, thread);
    var last = vec2<u32>(0xffffffffu, 0xffffffffu);
    if bounds.sure < bounds.stop {
        last = last_place(row, desc, largest, bounds, thread);
    }

    // What each chunk weighs: its tokens that stay whatever their rank, and those that do by their rank.
    atomicStore(&low[thread], 0u);
    atomicStore(&high[thread], 0u);
    workgroupBarrier();
    if bounds.sure < bounds.stop {
        let begin = row * params.vocabulary;
        let length = min(atomicLoad(&heads[row * HEAD + LISTED]), params.vocabulary);
        for (var i = thread; i < length; i += WORKGROUP) {
            let listing = listed[begin + i];
            let logit = value_of(listing.x);
            if !after(order_of(listing), last) && weight_of(UNIT_RATE, largest, logit) >= desc.min_p {
                let weight = weight_of(desc.rate, largest, logit);
                atomicAdd(&low[listing.y / CHUNK], weight & 0xffffu);
                atomicAdd(&high[listing.y / CHUNK], weight >> 16u);
            }
        }
    }
    workgroupBarrier();
    var chunk = wide_add(wide(atomicLoad(&low[thread])), wide_shifted(atomicLoad(&high[thread]), 16u));
    if thread < params.chunks {
        chunk = wide_add(chunk, sums[row * params.chunks + thread]);
    }
    _ = tally_scan(vec4<u32>(0u, chunk, 0u), thread);
    // A sum exceeds what is drawn where it reaches one more.
    let drawn = wide_share(sums_before[WORKGROUP - 1u].yz, desc.draw);
    let at_chunk = reach(wide_add(drawn, wide(1u)), thread);

    let first = at_chunk.x * CHUNK;
    mark_recent(desc, first, thread);
    let mine = thread * (CHUNK / WORKGROUP);
    var weights: array<u32, 8>;
    var sum = vec2<u32>();
    for (var i = 0u; i < CHUNK / WORKGROUP; i++) {
        let key = key_at(row, desc, first, mine + i);
        var weight = 0u;
        if key != 0u && !after(vec2<u32>(~key, first + mine + i), last) {
            let logit = value_of(key);
            if weight_of(UNIT_RATE, largest, logit) >= desc.min_p {
                weight = weight_of(desc.rate, largest, logit);
            }
        }
        weights[i] = weight;
        sum = wide_add(sum, wide(weight));
    }
    _ = tally_scan(vec4<u32>(0u, sum, 0u), thread);
    let at_thread = reach(at_chunk.yz, thread);
    if thread != at_thread.x {
        return;
    }
    var rest = at_thread.yz;
    for (var i = 0u; i < CHUNK / WORKGROUP; i++) {
        let weight = wide(weights[i]);
        if !wide_less(weight, rest) {
            out[row] = first + mine + i;
            return;
        }
        rest = wide_sub(rest, weight);
    }
}
