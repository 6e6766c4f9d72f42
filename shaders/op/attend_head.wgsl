// What: attention of one row's query head over all of its view: out = the weighted sum of values.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = query heads, y = 1, z = rows; groups of LANES threads take eight tokens at a time, each on its own.
// Shared: 8 KiB for the groups' sums, and 512 bytes for their maxima and weights.
// Numerics: f32 from f16 rows; online softmax by group, then over groups; a row that sees nothing gives zeros.

const WORKGROUP: u32 = 256u;
//:let PIECES = 2
//:let TOKENS = 8
//:import part/lanes
//:import part/math

struct Params {
    rows: u32,
    heads: u32,
    // Query heads of a key head.
    group: u32,
    // Octets of a head.
    octets: u32,
    // The window of slots, which is all of them, the vec4s of a slot, and of its keys.
    first_slot: u32,
    slots: u32,
    kv_pitch: u32,
    values: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> parts: array<vec4<f32>, 2u * WORKGROUP>;
// A group's maximum, and the sum of its weights.
var<workgroup> stats: array<vec2<f32>, WORKGROUP / 4u>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let row = group.z;
    // Neither load waits for the other.
    let counted = count[0];
    let desc_view = rows[row].view;
    let position = rows[row].position;
    if row >= min(counted, params.rows) {
        return;
    }
    let head = group.x;
    let kv_head = head / params.group;
    let view = views[desc_view];
    let end = view_visible(view, position);

    let groups = WORKGROUP / LANES;
    let within = lane.within % LANES;
    let own = lane.subgroup * (lane.size / LANES) + lane.within / LANES;
    // After scores are summed crosswise, a thread has those of two of the eight tokens.
    let back = within % 2u == 1u;
    let second = within % 4u >= 2u;
    // A head's last octets may leave some threads without one: they repeat the last, with queries of zero.
    //:repeat p = 0..PIECES
    let octet$(p) = within + $(p)u * LANES;
    let kv_octet$(p) = kv_head * params.octets + min(octet$(p), params.octets - 1u);
    let has$(p) = PIECES > $(p)u && octet$(p) < params.octets;
    var q$(p)_low = vec4<f32>();
    var q$(p)_high = vec4<f32>();
    var sum$(p)_low = vec4<f32>();
    var sum$(p)_high = vec4<f32>();
    if has$(p) {
        let source = 2u * ((row * params.heads + head) * params.octets + octet$(p));
        q$(p)_low = q[source] * params.scale;
        q$(p)_high = q[source + 1u] * params.scale;
    }
    //:end
    var largest = MASKED;
    var weight_sum = 0.0;

    // Loads run ahead: of places by two steps, of keys by one, and of a step's values while its keys are multiplied.
    let step = groups * 8u;
    //:repeat t = 0..TOKENS
    var place_now$(t) = ABSENT;
    var place_next$(t) = ABSENT;
    if end > 0u {
        place_now$(t) = token_place(view, own + $(t)u * groups, end);
        place_next$(t) = token_place(view, step + own + $(t)u * groups, end);
    }
    //:repeat p = 0..PIECES
    var k$(t)_$(p) = vec4<u32>();
    if PIECES > $(p)u {
        k$(t)_$(p) = kv[select(place_now$(t), 0u, place_now$(t) == ABSENT) * params.kv_pitch + kv_octet$(p)];
    }
    //:end
    //:end
    for (var at = 0u; at < end; at += step) {
        //:repeat t = 0..TOKENS
        let seen$(t) = place_now$(t) != ABSENT;
        let values$(t) = select(0u, place_now$(t), seen$(t)) * params.kv_pitch + params.values;
        //:repeat p = 0..PIECES
        var v$(t)_$(p) = vec4<u32>();
        if PIECES > $(p)u {
            v$(t)_$(p) = kv[values$(t) + kv_octet$(p)];
        }
        //:end
        place_now$(t) = place_next$(t);
        place_next$(t) = token_place(view, at + 2u * step + own + $(t)u * groups, end);
        //:end
        //:repeat t = 0..TOKENS
        var score$(t) = 0.0;
        //:repeat p = 0..PIECES
        if PIECES > $(p)u {
            score$(t) += dot(q$(p)_low, vec4<f32>(unpack2x16float(k$(t)_$(p).x), unpack2x16float(k$(t)_$(p).y)));
            score$(t) += dot(q$(p)_high, vec4<f32>(unpack2x16float(k$(t)_$(p).z), unpack2x16float(k$(t)_$(p).w)));
        }
        //:end
        //:end
        if at + step < end {
            //:repeat t = 0..TOKENS
            //:repeat p = 0..PIECES
            if PIECES > $(p)u {
                k$(t)_$(p) = kv[select(place_now$(t), 0u, place_now$(t) == ABSENT) * params.kv_pitch + kv_octet$(p)];
            }
            //:end
            //:end
        }
        let front_scores = vec4<f32>(score0, score1, score2, score3);
        let back_scores = vec4<f32>(score4, score5, score6, score7);
        let four = select(front_scores, back_scores, back) + subgroupShuffleXor(select(back_scores, front_scores, back), 1u);
        var score = select(four.xy, four.zw, second) + subgroupShuffleXor(select(four.zw, four.xy, second), 2u);
        if LANES > 4u {
            score += subgroupShuffleXor(score, 4u);
        }
        if LANES > 8u {
            score += subgroupShuffleXor(score, 8u);
        }
        if LANES > 16u {
            score += subgroupShuffleXor(score, 16u);
        }
        let front_seen = select(vec2<bool>(seen0, seen1), vec2<bool>(seen2, seen3), second);
        let back_seen = select(vec2<bool>(seen4, seen5), vec2<bool>(seen6, seen7), second);
        let seen = select(front_seen, back_seen, back);
        score = select(vec2<f32>(MASKED), score, seen);
        var new_largest = max(score.x, score.y);
        new_largest = max(new_largest, subgroupShuffleXor(new_largest, 1u));
        new_largest = max(largest, max(new_largest, subgroupShuffleXor(new_largest, 2u)));
        let keep = exp(largest - new_largest);
        largest = new_largest;
        let weight = select(vec2<f32>(), exp(score - largest), seen);
        weight_sum = weight_sum * keep + weight.x + weight.y;
        //:repeat p = 0..PIECES
        sum$(p)_low *= keep;
        sum$(p)_high *= keep;
        //:end
        //:repeat t = 0..TOKENS
        {
            let of_token = subgroupShuffle(weight[$(t)u % 2u], lane.within - within % 4u + $(t)u / 4u + 2u * ($(t)u / 2u % 2u));
            //:repeat p = 0..PIECES
            if PIECES > $(p)u {
                sum$(p)_low += of_token * vec4<f32>(unpack2x16float(v$(t)_$(p).x), unpack2x16float(v$(t)_$(p).y));
                sum$(p)_high += of_token * vec4<f32>(unpack2x16float(v$(t)_$(p).z), unpack2x16float(v$(t)_$(p).w));
            }
            //:end
        }
        //:end
    }
    weight_sum += subgroupShuffleXor(weight_sum, 1u);
    weight_sum += subgroupShuffleXor(weight_sum, 2u);

    // Groups become one: each scales its sums to the largest maximum.
    if within == 0u {
        stats[own] = vec2<f32>(largest, weight_sum);
    }
    workgroupBarrier();
    var most = stats[0].x;
    for (var g = 1u; g < groups; g++) {
        most = max(most, stats[g].x);
    }
    var total = 0.0;
    for (var g = 0u; g < groups; g++) {
        total += stats[g].y * exp(stats[g].x - most);
    }
    let factor = exp(largest - most) / max(total, 1.0e-30);
    let slot = 2u * (own * LANES + within);
    //:repeat p = 0..PIECES
    if PIECES > $(p)u {
        // All have read what the piece before left.
        workgroupBarrier();
        parts[slot] = factor * sum$(p)_low;
        parts[slot + 1u] = factor * sum$(p)_high;
        workgroupBarrier();
        let to = 2u * $(p)u * LANES + lane.thread;
        if lane.thread < 2u * LANES && to < 2u * params.octets {
            var value = vec4<f32>();
            for (var g = 0u; g < groups; g++) {
                value += parts[2u * LANES * g + lane.thread];
            }
            out[2u * (row * params.heads + head) * params.octets + to] = value;
        }
    }
    //:end
}
