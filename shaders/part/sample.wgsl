// What the kernels of `sample` share: logits in order and as weights, rounded alike on every device, and penalties. A chunk is what a
// workgroup takes of a row, eight tokens a thread. Needs `logits` (as bits), `samplings`, `recent` and `count`.
//:import part/layout
//:import part/precise

const WORKGROUP: u32 = 256u;
// Tokens of a chunk.
const CHUNK: u32 = 2048u;
// Bins of a row's histogram, an eighth of a logit each, by the distance from the largest.
const BINS: u32 = 256u;
// Words of a row's head: for each bin how many tokens it holds and the sum of their weights, its lower 21 bits and the upper ones; then how
// many tokens are listed.
const HEAD: u32 = 1028u;
const LISTED: u32 = 1024u;
// Magnitude beyond which logits count as this, 2^100, and below which they are zero.
const LARGEST_BITS: u32 = 0x71800000u;
const LEAST_BITS: u32 = 0x00800000u;
// log2(e): the rate at a temperature of 1.
const UNIT_RATE: f32 = 1.44269504;

struct Params {
    rows: u32,
    vocabulary: u32,
    // Elements of a row of logits.
    pitch: u32,
    // Tokens of the list of recent ones.
    recents: u32,
    chunks: u32,
    // Whether any row draws.
    draws: u32,
    zero: u32,
}

// A number in the order of logits; 0 is none.
fn key_of(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    let kept = select(min(magnitude, LARGEST_BITS), 0u, magnitude < LEAST_BITS);
    let negative = (bits >> 31u) != 0u && kept != 0u;
    let key = select(0x80000000u + kept, 0x7fffffffu - kept, negative);
    return select(key, 0u, magnitude > 0x7f800000u);
}

// The logit that has a key.
fn value_of(key: u32) -> f32 {
    return bitcast<f32>(select(0xffffffffu - key, key - 0x80000000u, key >= 0x80000000u));
}

// 2^(31 - (largest - logit) rate), cut to an integer. Every operation rounds once.
fn weight_of(rate: f32, largest: f32, logit: f32) -> u32 {
    let exponent = min(hidden(min(hidden(largest - logit), 1099511627776.0) * rate), 64.0);
    let whole = u32(exponent);
    let part = exponent - f32(whole);
    var power = hidden(1.1491995e-4 * part) - 1.2916368e-3;
    power = hidden(power * part) + 9.597035e-3;
    power = hidden(power * part) - 5.549923e-2;
    power = hidden(power * part) + 2.4022609e-1;
    power = hidden(power * part) - 6.9314718e-1;
    power = hidden(power * part) + 1.0;
    return select(u32(power * 2147483648.0) >> min(whole, 31u), 0u, whole > 31u);
}

// The bin of a logit.
fn bin_of(largest: f32, logit: f32) -> u32 {
    return u32(min(hidden(largest - logit) * 8.0, f32(BINS - 1u)));
}

// How a row's token is chosen.
fn sampling_of(row: u32) -> SampleDesc {
    var desc = samplings[row];
    if params.draws == 0u {
        desc.rate = 0.0;
    }
    return desc;
}

// Whether some of a row's tokens may have to be left out by rank or by what lies before them.
fn ranks(desc: SampleDesc) -> bool {
    return desc.top_k != 0u || desc.top_p != 0xffffffffu;
}

// A bit for each token of a chunk that is recent.
var<workgroup> marks: array<atomic<u32>, 64>;

// Finds the recent tokens of the chunk that begins with token `first`; all threads call it.
fn mark_recent(desc: SampleDesc, first: u32, thread: u32) {
    workgroupBarrier();
    if thread < CHUNK / 32u {
        atomicStore(&marks[thread], 0u);
    }
    workgroupBarrier();
    let begin = min(desc.recent_first, params.recents);
    let end = begin + min(desc.recent, params.recents - begin);
    for (var i = begin + thread; i < end; i += WORKGROUP) {
        let token = recent[i];
        if token >= first && token - first < CHUNK {
            atomicOr(&marks[(token - first) >> 5u], 1u << (token & 31u));
        }
    }
    workgroupBarrier();
}

// The key of token `at` of the chunk that was marked last; 0 beyond the vocabulary.
fn key_at(row: u32, desc: SampleDesc, first: u32, at: u32) -> u32 {
    let token = first + at;
    if token >= params.vocabulary {
        return 0u;
    }
    var key = key_of(logits[row * params.pitch + token]);
    if key != 0u && ((atomicLoad(&marks[at >> 5u]) >> (token & 31u)) & 1u) != 0u {
        let logit = value_of(key);
        key = key_of(bitcast<u32>(hidden(logit * select(desc.penalty, desc.relief, logit > 0.0))));
    }
    return key;
}

// The largest key with the lowest token that has it.
fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(b, a, a.x > b.x || (a.x == b.x && a.y < b.y));
}

var<workgroup> bests: array<vec2<u32>, 256>;
var<workgroup> bests_of_parts: array<vec2<u32>, 16>;

// The best of what all threads have, which all call it.
fn best_of(mine: vec2<u32>, thread: u32) -> vec2<u32> {
    bests[thread] = mine;
    workgroupBarrier();
    if thread < 16u {
        var best = bests[thread];
        for (var i = thread + 16u; i < WORKGROUP; i += 16u) {
            best = better(best, bests[i]);
        }
        bests_of_parts[thread] = best;
    }
    workgroupBarrier();
    var best = bests_of_parts[0];
    for (var i = 1u; i < 16u; i++) {
        best = better(best, bests_of_parts[i]);
    }
    return best;
}
