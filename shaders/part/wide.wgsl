// Integers of 64 bits as two words, the low one first, and their sums over a workgroup of 256 threads.

fn wide(low: u32) -> vec2<u32> {
    return vec2<u32>(low, 0u);
}

fn wide_add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + u32(low < a.x));
}

fn wide_sub(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - u32(a.x < b.x));
}

fn wide_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

// value * 2^bits, for 1 to 31 bits.
fn wide_shifted(value: u32, bits: u32) -> vec2<u32> {
    return vec2<u32>(value << bits, value >> (32u - bits));
}

// The product of two words.
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = wide_add(wide((a >> 16u) * (b & 0xffffu)), wide((a & 0xffffu) * (b >> 16u)));
    let upper = vec2<u32>(middle.x << 16u, (middle.x >> 16u) | (middle.y << 16u));
    return wide_add(vec2<u32>(low, (a >> 16u) * (b >> 16u)), upper);
}

// total * part * 2^-32, cut.
fn wide_share(total: vec2<u32>, part: u32) -> vec2<u32> {
    return wide_add(wide_product(total.y, part), wide(wide_product(total.x, part).y));
}

// A count in x, and a wide sum in y and z.
var<workgroup> sums_before: array<vec4<u32>, 256>;
var<workgroup> sums_of_parts: array<vec4<u32>, 16>;

fn tally_add(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(a.x + b.x, wide_add(a.yz, b.yz), 0u);
}

// The sum of what threads up to this one have; all threads call it. That of thread t stays in `sums_before[t]` until it is called again.
fn tally_scan(value: vec4<u32>, thread: u32) -> vec4<u32> {
    workgroupBarrier();
    sums_before[thread] = value;
    workgroupBarrier();
    if thread < 16u {
        var sum = vec4<u32>();
        for (var i = 16u * thread; i < 16u * thread + 16u; i++) {
            sum = tally_add(sum, sums_before[i]);
            sums_before[i] = sum;
        }
        sums_of_parts[thread] = sum;
    }
    workgroupBarrier();
    var sum = sums_before[thread];
    for (var i = 0u; i < thread / 16u; i++) {
        sum = tally_add(sum, sums_of_parts[i]);
    }
    sums_before[thread] = sum;
    workgroupBarrier();
    return sum;
}

// What the threads before this one have, after `tally_scan`.
fn tally_before(thread: u32) -> vec4<u32> {
    var before = vec4<u32>();
    if thread > 0u {
        before = sums_before[thread - 1u];
    }
    return before;
}
