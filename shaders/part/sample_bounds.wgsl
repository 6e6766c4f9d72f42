// Which bins of a row's histogram stay as a whole, and which hold tokens that are to be ranked. Needs `firsts`, the best of each chunk, and
// `heads`.
//:import part/sample
//:import part/wide

struct Bounds {
    // Bins before this one stay; from `stop` on none do. Those between are listed.
    sure: u32,
    stop: u32,
    // Whether `top_k` leaves tokens out.
    ranked: bool,
    // Tokens in the bins that stay, and their weights at a temperature of 1.
    before: vec4<u32>,
    // The weights of all tokens.
    total: vec2<u32>,
}

var<workgroup> bound: u32;

// A row's best token.
fn row_best(row: u32, thread: u32) -> vec2<u32> {
    var best = vec2<u32>(0u, 0xffffffffu);
    for (var i = thread; i < params.chunks; i += WORKGROUP) {
        best = better(best, firsts[row * params.chunks + i]);
    }
    return best_of(best, thread);
}

// The bins of a row; all threads call it. Where nothing is ranked there is no histogram, and all stay.
fn row_bounds(row: u32, desc: SampleDesc, thread: u32) -> Bounds {
    var bounds = Bounds(BINS, BINS, false, vec4<u32>(), vec2<u32>());
    if !ranks(desc) {
        return bounds;
    }
    let at = row * HEAD + 4u * thread;
    let upper = wide_shifted(atomicLoad(&heads[at + 2u]), 21u);
    let weights = wide_add(wide(atomicLoad(&heads[at + 1u])), upper);
    let up_to = tally_scan(vec4<u32>(atomicLoad(&heads[at]), weights, 0u), thread);
    let before = tally_before(thread);
    let all = sums_before[BINS - 1u];
    bounds.total = all.yz;
    var sum = all.yz;
    if desc.top_k != 0u && desc.top_k < all.x {
        if before.x < desc.top_k && up_to.x >= desc.top_k {
            bound = thread;
        }
        workgroupBarrier();
        let last = bound;
        workgroupBarrier();
        bounds.ranked = true;
        bounds.sure = last;
        bounds.stop = last + 1u;
        // The least that the tokens which `top_k` leaves can weigh.
        sum = tally_before(last).yz;
    }
    if desc.top_p != 0xffffffffu {
        let least = max_one(wide_share(sum, desc.top_p));
        if wide_less(before.yz, least) && !wide_less(up_to.yz, least) {
            bound = thread;
        }
        workgroupBarrier();
        let last = bound;
        workgroupBarrier();
        bounds.sure = last;
        if !bounds.ranked {
            bounds.stop = last + 1u;
        }
    }
    bounds.before = tally_before(bounds.sure);
    return bounds;
}

// A sum, but 1 where it is 0.
fn max_one(sum: vec2<u32>) -> vec2<u32> {
    return select(sum, wide(1u), all(sum == vec2<u32>()));
}
