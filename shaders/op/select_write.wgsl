// What: out[p] = entries (or places) of the tokens before the candidates of pick p, of its `keep` best candidates, and of those after them, in order.
// Contract: engine/contract/src/op/select.rs
// Grid: x = parts of the candidates, y = picks; 256 threads share a part, each of which takes one stretch of it.
// Shared: 8 KiB for counts, 4 KiB for sums.
// Numerics: integers.

//:import part/ranking
//:import part/window

struct Params {
    picks: u32,
    parts: u32,
    // Elements of a row of scores, and words of a pick's share of `work`.
    scores_pitch: u32,
    work_pitch: u32,
    // Thousandths of a choice that are planted in the next one, or all ones where scores choose.
    overlap: u32,
    // Elements of a row of out, and tokens that it has room for.
    out_pitch: u32,
    capacity: u32,
    // All slots are in the window.
    first_slot: u32,
    slots: u32,
    // Whether places are given rather than entries.
    places: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(6) var<storage, read> views: array<ViewDesc>;
@group(0) @binding(7) var<storage, read> entries: array<u32>;
@group(0) @binding(8) var<storage, read_write> out: array<u32>;

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
    if group.y >= min(count[0], params.picks) {
        return;
    }
    let part = part_of(group.y, group.x);
    let pick = part.pick;
    let row = rows[pick.row];
    let view = views[row.view];
    let threshold = threshold_after(part, 3u);
    // Candidates of the parts before this one.
    var earlier = vec2<u32>();
    for (var other = thread; other < group.x; other += WORKGROUP) {
        let place = part.base + part_holds(other);
        earlier += vec2<u32>(atomicLoad(&work[place]), atomicLoad(&work[place + 1u]));
    }
    earlier = sums_before(earlier, thread).zw;

    let stretch = (part.end - part.begin + WORKGROUP - 1u) / WORKGROUP;
    let begin = min(part.begin + thread * stretch, part.end);
    let end = min(begin + stretch, part.end);
    var holds = vec2<u32>();
    for (var i = begin; i < end; i++) {
        let bits = key(group.y, i);
        holds += vec2<u32>(u32(bits > threshold.x), u32(bits == threshold.x));
    }
    let before = earlier + sums_before(holds, thread).xy;
    // Of those at the threshold the first `threshold.y` stay.
    var equal = before.y;
    var place = pick.first + before.x + min(equal, threshold.y);
    if holds.x + holds.y > 0u {
        for (var i = begin; i < end; i++) {
            let bits = key(group.y, i);
            var stays = bits > threshold.x;
            if bits == threshold.x {
                stays = equal < threshold.y;
                equal += 1u;
            }
            if stays {
                put(group.y, place, given(view, pick.first + i));
                place += 1u;
            }
        }
    }

    // What is not chosen among is shared by all parts.
    let own = group.x * WORKGROUP + thread;
    let step = params.parts * WORKGROUP;
    for (var i = own; i < pick.first; i += step) {
        put(group.y, i, given(view, i));
    }
    let visible = view_visible(view, row.position);
    let tail = max(visible, pick.first + part.candidates);
    for (var i = pick.first + part.candidates + own; i < tail; i += step) {
        put(group.y, i - part.candidates + part.keep, given(view, i));
    }
    for (var i = tail - part.candidates + part.keep + own; i < params.capacity; i += step) {
        put(group.y, i, 0u);
    }
}
