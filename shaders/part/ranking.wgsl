// The order of a pick's candidates, and what the dispatches of a selection leave for one another. Needs a workgroup of 256 threads, and of `params`
// picks, parts, scores_pitch, work_pitch and overlap.
//:import part/layout

const WORKGROUP: u32 = 256u;
// Keys are below 2^31: a first digit of 9 bits, and two of 11.
const FIRST_BINS: u32 = 512u;
const BINS: u32 = 2048u;

@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read> picks: array<PickDesc>;
// For each pick: how many of each part's candidates have each first digit; how many have each second, then each third digit; the threshold and
// how many of those at it stay, after one, two and three digits; each part's candidates above the threshold, and at it.
@group(0) @binding(5) var<storage, read_write> work: array<atomic<u32>>;

// Counts of a digit, then the sums of 256 threads.
var<workgroup> histogram: array<atomic<u32>, BINS>;
var<workgroup> scan: array<vec2<u32>, 2u * WORKGROUP>;
var<workgroup> found: vec2<u32>;

// A part of a pick's candidates.
struct Part {
    pick: PickDesc,
    candidates: u32,
    keep: u32,
    begin: u32,
    end: u32,
    // Where its pick's share of `work` begins.
    base: u32,
}

// The position of the row that chooses, and in 4096ths how much nearer each brings a candidate to its next draw.
var<private> position: u32;
var<private> rate: u32;

fn part_of(index: u32, part: u32) -> Part {
    let pick = picks[index];
    let candidates = min(pick.candidates, params.scores_pitch);
    let keep = min(pick.keep, candidates);
    position = rows[pick.row].position;
    let left_out = max(pick.candidates - keep, 1u);
    rate = min(4096u * (1000u - min(params.overlap, 1000u)) / 1000u * pick.candidates / left_out, 4096u);
    let size = (candidates + params.parts - 1u) / params.parts;
    let begin = min(part * size, candidates);
    return Part(pick, candidates, keep, begin, min(begin + size, candidates), index * params.work_pitch);
}

// Places in a pick's share of `work`.
fn second_digits() -> u32 {
    return params.parts * FIRST_BINS;
}

fn thresholds() -> u32 {
    return second_digits() + 2u * BINS;
}

fn part_holds(part: u32) -> u32 {
    return thresholds() + 6u + 2u * part;
}

fn threshold_after(part: Part, digits: u32) -> vec2<u32> {
    let place = part.base + thresholds() + 2u * (digits - 1u);
    return vec2<u32>(atomicLoad(&work[place]), atomicLoad(&work[place + 1u]));
}

// A permutation of the numbers without a pattern.
fn scattered(value: u32) -> u32 {
    let a = (value ^ (value >> 16u)) * 0x7feb352du;
    let b = (a ^ (a >> 15u)) * 0x846ca68bu;
    return b ^ (b >> 16u);
}

fn key(index: u32, candidate: u32) -> u32 {
    let bits = bitcast<u32>(max(scores[index * params.scores_pitch + candidate], 0.0));
    if params.overlap > 1000u {
        return bits;
    }
    let draw = (position * rate + (scattered(candidate) & 4095u)) >> 12u;
    // A score has no sign: it is read as if it chose.
    return (bits >> 31u) + (scattered(candidate ^ scattered(draw + 0x9e3779b9u)) >> 2u);
}

// For each thread, the sum over the threads before it, and then that over all. All threads of the workgroup call this.
fn sums_before(own: vec2<u32>, thread: u32) -> vec4<u32> {
    var sum = own;
    var side = 0u;
    workgroupBarrier();
    scan[thread] = sum;
    workgroupBarrier();
    for (var distance = 1u; distance < WORKGROUP; distance *= 2u) {
        if thread >= distance {
            sum += scan[side + thread - distance];
        }
        side = WORKGROUP - side;
        scan[side + thread] = sum;
        workgroupBarrier();
    }
    return vec4<u32>(sum - own, scan[side + WORKGROUP - 1u]);
}

// The digit of the last candidate that stays, and how many of those with this digit stay, of `rest` that stay in all. `counts` are those of the
// thread's `each` digits, from its first one on. All threads of the workgroup call this.
fn last_digit(counts: array<u32, 8>, each: u32, rest: u32, thread: u32) -> vec2<u32> {
    var own = 0u;
    for (var i = 0u; i < each; i++) {
        own += counts[i];
    }
    let before = sums_before(vec2<u32>(own, 0u), thread);
    // Candidates with higher digits than the thread's.
    let above = before.z - before.x - own;
    let here = above < rest && above + own >= rest;
    let all = thread == 0u && above + own < rest;
    let none = thread == WORKGROUP - 1u && rest == 0u;
    if here || all || none {
        var left = rest - above;
        var at = each - 1u;
        while at > 0u && counts[at] < left {
            left -= counts[at];
            at -= 1u;
        }
        found = vec2<u32>(thread * each + at, left);
    }
    workgroupBarrier();
    return found;
}

// The threshold and how many of those at it stay, once the counts of digit `digits` are known: those that the first part leaves for what follows.
fn find(part: Part, digits: u32, thread: u32) -> vec2<u32> {
    var counts = array<u32, 8>();
    if digits == 1u {
        for (var first = 0u; first < params.parts; first += 8u) {
            //:repeat p = 0..8
            let place$(p) = part.base + min(first + $(p)u, params.parts - 1u) * FIRST_BINS + 2u * thread;
            let low$(p) = atomicLoad(&work[place$(p)]);
            let high$(p) = atomicLoad(&work[place$(p) + 1u]);
            //:end
            //:repeat p = 0..8
            if first + $(p)u < params.parts {
                counts[0] += low$(p);
                counts[1] += high$(p);
            }
            //:end
        }
        let digit = last_digit(counts, 2u, part.keep, thread);
        return vec2<u32>(digit.x << 22u, digit.y);
    }
    let earlier = threshold_after(part, digits - 1u);
    let place = part.base + second_digits() + (digits - 2u) * BINS + 8u * thread;
    //:repeat i = 0..8
    counts[$(i)] = atomicLoad(&work[place + $(i)u]);
    //:end
    let digit = last_digit(counts, 8u, earlier.y, thread);
    return vec2<u32>(earlier.x | (digit.x << (11u * (3u - digits))), digit.y);
}

// Leaves a threshold for the dispatches that follow, from the first part.
fn leave_threshold(part: Part, index: u32, digits: u32, threshold: vec2<u32>, thread: u32) {
    if index == 0u && thread == 0u {
        let place = part.base + thresholds() + 2u * (digits - 1u);
        atomicStore(&work[place], threshold.x);
        atomicStore(&work[place + 1u], threshold.y);
    }
}
