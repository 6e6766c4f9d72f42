// What: out[p] = entries (or places) of the tokens before the candidates of pick p, of its `keep` best candidates, and of those after them, in order.
// Contract: engine/contract/src/op/select.rs
// Grid: x = picks; 256 threads, each of which takes one stretch of candidates.
// Shared: 3 KiB for a histogram and for what each stretch holds.
// Numerics: scores are not negative, so their bits are ordered as they are: a radix select in four rounds of 8 bits, no rounding.

const WORKGROUP: u32 = 256u;
//:import part/window

struct Params {
    picks: u32,
    // Elements of a row of scores and of out, and tokens that a row of out has room for.
    scores_pitch: u32,
    out_pitch: u32,
    capacity: u32,
    // All slots are in the window.
    first_slot: u32,
    slots: u32,
    // Thousandths of a choice that are planted in the next one, or all ones where scores choose.
    overlap: u32,
    // Whether places are given rather than entries.
    places: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read> views: array<ViewDesc>;
@group(0) @binding(5) var<storage, read> entries: array<u32>;
@group(0) @binding(6) var<storage, read> picks: array<PickDesc>;
@group(0) @binding(7) var<storage, read_write> out: array<u32>;

var<workgroup> histogram: array<atomic<u32>, 256>;
// The digit of the last candidate that stays, and how many of those with this digit stay.
var<workgroup> digit: vec2<u32>;
// Candidates of each stretch above the threshold, and at it; then the sums before each stretch.
var<workgroup> stretches: array<vec2<u32>, 256>;

// The position of the row that chooses, and in 4096ths how much nearer each brings a candidate to its next draw.
var<private> position: u32;
var<private> rate: u32;

// A permutation of the numbers without a pattern.
fn scattered(value: u32) -> u32 {
    let a = (value ^ (value >> 16u)) * 0x7feb352du;
    let b = (a ^ (a >> 15u)) * 0x846ca68bu;
    return b ^ (b >> 16u);
}

fn key(pick: u32, candidate: u32) -> u32 {
    let bits = bitcast<u32>(max(scores[pick * params.scores_pitch + candidate], 0.0));
    if params.overlap > 1000u {
        return bits;
    }
    let draw = (position * rate + (scattered(candidate) & 4095u)) >> 12u;
    // A score has no sign: it is read as if it chose.
    return (bits >> 31u) + (scattered(candidate ^ scattered(draw + 0x9e3779b9u)) >> 2u);
}

// What is given of a token of a view.
fn given(view: ViewDesc, token: u32) -> u32 {
    if params.places != 0u {
        return token;
    }
    return view_slot(view, token);
}

fn put(pick: u32, place: u32, value: u32) {
    if place < params.capacity {
        out[pick * params.out_pitch + place] = value;
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if group.x >= min(count[0], params.picks) {
        return;
    }
    let pick = picks[group.x];
    let candidates = min(pick.candidates, params.scores_pitch);
    let keep = min(pick.keep, candidates);
    let row = rows[pick.row];
    let view = views[row.view];
    let visible = view_visible(view, row.position);
    position = row.position;
    let left_out = max(pick.candidates - keep, 1u);
    rate = min(4096u * (1000u - min(params.overlap, 1000u)) / 1000u * pick.candidates / left_out, 4096u);

    var threshold = 0u;
    var fixed = 0u;
    var remaining = keep;
    for (var round = 0u; round < 4u; round++) {
        let shift = 24u - 8u * round;
        atomicStore(&histogram[thread], 0u);
        workgroupBarrier();
        for (var i = thread; i < candidates; i += WORKGROUP) {
            let bits = key(group.x, i);
            if (bits & fixed) == threshold {
                atomicAdd(&histogram[(bits >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if thread == 0u {
            var rest = remaining;
            var at = 255u;
            while at > 0u && atomicLoad(&histogram[at]) < rest {
                rest -= atomicLoad(&histogram[at]);
                at -= 1u;
            }
            digit = vec2<u32>(at, rest);
        }
        workgroupBarrier();
        let found = digit;
        threshold |= found.x << shift;
        fixed |= 255u << shift;
        remaining = found.y;
        // All have read the digit before the next round overwrites it.
        workgroupBarrier();
    }

    let stretch = (candidates + WORKGROUP - 1u) / WORKGROUP;
    let begin = min(thread * stretch, candidates);
    let end = min(begin + stretch, candidates);
    var holds = vec2<u32>();
    for (var i = begin; i < end; i++) {
        let bits = key(group.x, i);
        holds += vec2<u32>(u32(bits > threshold), u32(bits == threshold));
    }
    stretches[thread] = holds;
    workgroupBarrier();
    if thread == 0u {
        var before = vec2<u32>();
        for (var i = 0u; i < WORKGROUP; i++) {
            let here = stretches[i];
            stretches[i] = before;
            before += here;
        }
    }
    workgroupBarrier();
    // Of those at the threshold the first `remaining` stay.
    var equal = stretches[thread].y;
    var place = pick.first + stretches[thread].x + min(equal, remaining);
    for (var i = begin; i < end; i++) {
        let bits = key(group.x, i);
        var stays = bits > threshold;
        if bits == threshold {
            stays = equal < remaining;
            equal += 1u;
        }
        if stays {
            put(group.x, place, given(view, pick.first + i));
            place += 1u;
        }
    }
    for (var i = thread; i < pick.first; i += WORKGROUP) {
        put(group.x, i, given(view, i));
    }
    let tail = max(visible, pick.first + candidates);
    for (var i = pick.first + candidates + thread; i < tail; i += WORKGROUP) {
        put(group.x, i - candidates + keep, given(view, i));
    }
    for (var i = tail - candidates + keep + thread; i < params.capacity; i += WORKGROUP) {
        put(group.x, i, 0u);
    }
}
