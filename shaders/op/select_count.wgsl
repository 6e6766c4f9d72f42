// What: how many candidates of each part of a pick are above the threshold, and how many at it.
// Contract: engine/contract/src/op/select.rs
// Grid: x = parts of the candidates, y = picks; 256 threads share a part.
// Shared: 8 KiB for counts, 4 KiB for sums.
// Numerics: integers.

//:import part/ranking

struct Params {
    picks: u32,
    parts: u32,
    // Elements of a row of scores, and words of a pick's share of `work`.
    scores_pitch: u32,
    work_pitch: u32,
    // Thousandths of a choice that are planted in the next one, or all ones where scores choose.
    overlap: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if group.y >= min(count[0], params.picks) {
        return;
    }
    let part = part_of(group.y, group.x);
    let threshold = find(part, 3u, thread);
    leave_threshold(part, group.x, 3u, threshold, thread);
    var holds = vec2<u32>();
    for (var first = part.begin + thread; first < part.end; first += 4u * WORKGROUP) {
        //:repeat i = 0..4
        let key$(i) = key(group.y, min(first + $(i)u * WORKGROUP, part.end - 1u));
        //:end
        //:repeat i = 0..4
        if first + $(i)u * WORKGROUP < part.end {
            holds += vec2<u32>(u32(key$(i) > threshold.x), u32(key$(i) == threshold.x));
        }
        //:end
    }
    let all = sums_before(holds, thread).zw;
    if thread == 0u {
        atomicStore(&work[part.base + part_holds(group.x)], all.x);
        atomicStore(&work[part.base + part_holds(group.x) + 1u], all.y);
    }
}
