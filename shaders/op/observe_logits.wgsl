// What: logits of up to four query heads that share a key head, for 128 candidates of a pick; and of those each head's largest, and the sum of exponentials against it.
// Contract: engine/contract/src/op/observe.rs
// Grid: x = blocks of four query heads, y = candidates / 128, z = picks; LANES threads share a candidate, and take an octet of its key each.
// Shared: 9 KiB for products by octet, and 516 bytes for slots.
// Numerics: f32 from f16 rows, by octet and then over octets.

const WORKGROUP: u32 = 128u;
// Candidates of a workgroup; observe_total counts with the same.
const TILE: u32 = 128u;
//:let TOKENS = 4
// Candidates that LANES threads take at a time.
const TOKENS: u32 = 4u;
//:import part/window
//:import part/math

struct Params {
    picks: u32,
    heads: u32,
    // Query heads of a key head, and blocks of four among them.
    group: u32,
    blocks: u32,
    // The first block of this dispatch.
    first_block: u32,
    // Candidates that a row of scores has room for.
    capacity: u32,
    // Where the tiles' records begin, in vec4s.
    records: u32,
    // The window of slots, and the vec4s of a slot.
    first_slot: u32,
    slots: u32,
    kv_pitch: u32,
    // Whether an earlier dispatch has seen other slots of these candidates.
    resume: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> views: array<ViewDesc>;
@group(0) @binding(6) var<storage, read> entries: array<u32>;
@group(0) @binding(7) var<storage, read> picks: array<PickDesc>;
// [pick][block][candidate][head], and from the records on [pick][block][tile][largest, sum][head]: one binding, for devices with eight.
@group(0) @binding(8) var<storage, read_write> logits: array<f32>;

// Octets of a head.
override LANES: u32 = 16u;

// A candidate's products have an odd pitch, so that the threads that sum those of eight candidates meet in no bank.
const PRODUCTS: u32 = 144u;
var<workgroup> products: array<vec4<f32>, TOKENS * PRODUCTS>;
var<workgroup> places: array<u32, TILE>;
var<workgroup> present: atomic<u32>;

// The place in the window of a candidate of the tile, or ABSENT.
fn tile_place(token: u32) -> u32 {
    return select(ABSENT, places[min(token, TILE - 1u)], token < TILE);
}

// Where the key of a candidate begins; that of an absent one may be any.
fn key_base(token: u32) -> u32 {
    let place = tile_place(token);
    return select(place, 0u, place == ABSENT) * params.kv_pitch;
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // Neither load waits for the other.
    let counted = count[0];
    let pick = picks[group.z];
    if thread == 0u {
        atomicStore(&present, 0u);
    }
    workgroupBarrier();
    let candidates = min(pick.candidates, params.capacity);
    let first = group.y * TILE;
    if group.z >= min(counted, params.picks) || first >= candidates {
        return;
    }
    let limit = min(candidates - first, TILE);
    // Workgroups of a tile follow one another: together they read whole rows of the cache.
    let block = params.first_block + group.x;
    let kv_head = block / params.blocks;
    let head = kv_head * params.group + 4u * (block % params.blocks);
    let block_heads = min(kv_head * params.group + params.group - head, 4u);

    let pitch = LANES | 1u;
    let teams = min(WORKGROUP / LANES, PRODUCTS / pitch);
    let step = TOKENS * teams;
    let octet = thread % LANES;
    // Threads beyond the last team repeat the first one's loads.
    let has_team = thread < teams * LANES;
    let own = select(0u, thread / LANES, has_team);
    //:repeat h = 0..4
    var q$(h)_low = vec4<f32>();
    var q$(h)_high = vec4<f32>();
    if $(h)u < block_heads {
        let at = 2u * ((pick.row * params.heads + head + $(h)u) * LANES + octet);
        q$(h)_low = q[at] * params.scale;
        q$(h)_high = q[at + 1u] * params.scale;
    }
    //:end
    var local = ABSENT;
    if thread < limit {
        local = local_slot(views[rows[pick.row].view], pick.first + first + thread);
    }
    places[thread] = local;
    if local != ABSENT {
        atomicStore(&present, 1u);
    }
    workgroupBarrier();
    // Where the window holds nothing of the tile, only barriers remain of its steps.
    let is_present = atomicLoad(&present) != 0u;

    let place = group.z * groups.x + group.x;
    let out = 4u * (place * params.capacity + first);
    let kv_octet = kv_head * LANES + octet;
    // A thread sums products of one head, of every 32nd candidate.
    let own_head = thread % 4u;
    var largest = MASKED;
    var sum = 0.0;
    //:repeat t = 0..TOKENS
    var key$(t) = kv[key_base($(t)u * teams + own) + kv_octet];
    //:end
    for (var at = 0u; at < limit; at += step) {
        // Keys are loaded a step ahead.
        //:repeat t = 0..TOKENS
        var next$(t) = key$(t);
        //:end
        if is_present && at + step < limit {
            //:repeat t = 0..TOKENS
            next$(t) = kv[key_base(at + step + $(t)u * teams + own) + kv_octet];
            //:end
        }
        if is_present && has_team {
            //:repeat t = 0..TOKENS
            let low$(t) = vec4<f32>(unpack2x16float(key$(t).x), unpack2x16float(key$(t).y));
            let high$(t) = vec4<f32>(unpack2x16float(key$(t).z), unpack2x16float(key$(t).w));
            products[($(t)u * teams + own) * pitch + octet] = vec4<f32>(
                //:repeat h = 0..4
                dot(q$(h)_low, low$(t)) + dot(q$(h)_high, high$(t)),
                //:end
            );
            //:end
        }
        workgroupBarrier();
        for (var i = thread; i < 4u * step; i += WORKGROUP) {
            let token = i / 4u;
            if tile_place(at + token) != ABSENT {
                var logit = 0.0;
                for (var l = 0u; l < LANES; l++) {
                    logit += products[token * pitch + l][own_head];
                }
                logits[out + 4u * at + i] = logit;
                let most = max(largest, logit);
                sum = sum * exp(largest - most) + exp(logit - most);
                largest = most;
            }
        }
        // The next step's products replace these.
        workgroupBarrier();
        //:repeat t = 0..TOKENS
        key$(t) = next$(t);
        //:end
    }

    // The tile's record: 32 threads of each head become four, and those one, to which what earlier windows hold is added.
    products[thread] = vec4<f32>(largest, sum, 0.0, 0.0);
    workgroupBarrier();
    if thread < 16u {
        //:repeat i = 0..8
        let part$(i) = products[thread + 16u * $(i)u];
        //:end
        var most = MASKED;
        //:repeat i = 0..8
        most = max(most, part$(i).x);
        //:end
        var total = 0.0;
        //:repeat i = 0..8
        total += part$(i).y * exp(part$(i).x - most);
        //:end
        products[WORKGROUP + thread] = vec4<f32>(most, total, 0.0, 0.0);
    }
    workgroupBarrier();
    if thread < 4u {
        let record = 4u * (params.records + 2u * (place * groups.y + group.y)) + thread;
        var most = MASKED;
        var total = 0.0;
        if params.resume != 0u {
            most = logits[record];
            total = logits[record + 4u];
        }
        //:repeat i = 0..4
        let quarter$(i) = products[WORKGROUP + thread + 4u * $(i)u];
        //:end
        let earlier = most;
        //:repeat i = 0..4
        most = max(most, quarter$(i).x);
        //:end
        total *= exp(earlier - most);
        //:repeat i = 0..4
        total += quarter$(i).y * exp(quarter$(i).x - most);
        //:end
        logits[record] = most;
        logits[record + 4u] = total;
    }
}
