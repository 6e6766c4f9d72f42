// What: how many candidates of a pick have each value of the next digit of their key, among those that have the threshold's earlier digits.
// Contract: engine/contract/src/op/select.rs
// Grid: x = parts of the candidates, y = picks; 256 threads share a part.
// Shared: 8 KiB for counts, 4 KiB for sums.
// Numerics: scores are not negative, so their bits are ordered as they are: a radix select in three rounds of 9, 11 and 11 bits, no rounding.

//:import part/ranking

struct Params {
    picks: u32,
    parts: u32,
    // Elements of a row of scores, and words of a pick's share of `work`.
    scores_pitch: u32,
    work_pitch: u32,
    // Thousandths of a choice that are planted in the next one, or all ones where scores choose.
    overlap: u32,
    // Digits that are known.
    known: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if group.y >= min(count[0], params.picks) {
        return;
    }
    let part = part_of(group.y, group.x);
    for (var i = thread; i < BINS; i += WORKGROUP) {
        atomicStore(&histogram[i], 0u);
    }
    var threshold = vec2<u32>();
    if params.known > 0u {
        threshold = find(part, params.known, thread);
        leave_threshold(part, group.x, params.known, threshold, thread);
    } else if group.x == 0u {
        for (var i = thread; i < 2u * BINS; i += WORKGROUP) {
            atomicStore(&work[part.base + second_digits() + i], 0u);
        }
    }
    workgroupBarrier();
    // The bits of the next digit, and those before them.
    let shift = 22u - 11u * params.known;
    let mask = select(BINS, FIRST_BINS, params.known == 0u) - 1u;
    for (var first = part.begin + thread; first < part.end; first += 4u * WORKGROUP) {
        //:repeat i = 0..4
        let key$(i) = key(group.y, min(first + $(i)u * WORKGROUP, part.end - 1u));
        //:end
        //:repeat i = 0..4
        let alike$(i) = params.known == 0u || ((key$(i) ^ threshold.x) >> (33u - 11u * params.known)) == 0u;
        if alike$(i) && first + $(i)u * WORKGROUP < part.end {
            atomicAdd(&histogram[(key$(i) >> shift) & mask], 1u);
        }
        //:end
    }
    workgroupBarrier();
    if params.known == 0u {
        for (var i = thread; i < FIRST_BINS; i += WORKGROUP) {
            atomicStore(&work[part.base + group.x * FIRST_BINS + i], atomicLoad(&histogram[i]));
        }
    } else {
        let place = part.base + second_digits() + (params.known - 1u) * BINS;
        for (var i = thread; i < BINS; i += WORKGROUP) {
            let here = atomicLoad(&histogram[i]);
            if here > 0u {
                atomicAdd(&work[place + i], here);
            }
        }
    }
}
