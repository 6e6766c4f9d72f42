// What: attention of one row's up to four query heads that share a key head, over one split of its view: weighted sums, maxima, sums of weights.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = key heads * blocks of four query heads, y = splits, z = rows, or as many as may be lone; groups of LANES threads take four tokens at a time, each on its own.
// Shared: 8 KiB for the groups' sums of two heads, and 1 KiB for their maxima and weights.
// Numerics: f32 from f16 rows; online softmax by group, then over groups; a split that sees nothing gives weight 0.

const WORKGROUP: u32 = 128u;
//:let PIECES = 2
//:let TOKENS = 4
//:import part/crosswise
//:import part/lanes
//:import part/lone
//:import part/math

struct Params {
    rows: u32,
    // The first row of this dispatch, and from a workgroup's row to its next one.
    first_row: u32,
    row_step: u32,
    heads: u32,
    // Query heads of a key head, and blocks of four among them.
    group: u32,
    blocks: u32,
    // Octets of a head.
    octets: u32,
    // Tokens of a split, and splits.
    split_tokens: u32,
    splits: u32,
    // The window of slots, the vec4s of a slot, and of its keys.
    first_slot: u32,
    slots: u32,
    kv_pitch: u32,
    values: u32,
    // Whether an earlier dispatch has seen other slots of the split, and whether the sums are divided by the weights here.
    resume: u32,
    finish: u32,
    // Whether rows that share their view with a neighbour are served elsewhere.
    lone: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
// [row][head][split][head_dim], and [row][head][split] as maximum and sum of weights.
@group(0) @binding(7) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> stats: array<vec2<f32>>;

var<workgroup> parts: array<vec4<f32>, 4u * WORKGROUP>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    var row = params.first_row + group.z;
    // Neither load waits for the other.
    let counted = count[0];
    var desc_view = rows[row].view;
    var position = rows[row].position;
    loop {
        if row >= min(counted, params.rows) {
            break;
        }
        if params.lone != 0u {
            if !is_lone(row, min(counted, params.rows)) {
                continue;
            }
        }
        // Workgroups of a split follow one another: together they read whole rows of the cache.
        let split = group.y;
        let kv_head = group.x / params.blocks;
        let block = group.x % params.blocks;
        let head = kv_head * params.group + 4u * block;
        let block_heads = min(params.group - 4u * block, 4u);
        let view = views[desc_view];
        let visible = view_visible(view, position);
        let begin = split * params.split_tokens;
        if split > 0u && begin >= visible {
            // The merge does not read it.
            continue;
        }
        let end = select(min(begin + params.split_tokens, visible), visible, split + 1u == params.splits);

        let groups = WORKGROUP / LANES;
        let within = lane.within % LANES;
        let odd = within % 2u == 1u;
        let second = within % 4u >= 2u;
        let own = lane.subgroup * (lane.size / LANES) + lane.within / LANES;
        // A head's last octets may leave some threads without one: they repeat the last, with queries of zero.
        //:repeat p = 0..PIECES
        let octet$(p) = within + $(p)u * LANES;
        let kv_octet$(p) = kv_head * params.octets + min(octet$(p), params.octets - 1u);
        let has$(p) = PIECES > $(p)u && octet$(p) < params.octets;
        //:end
        //:repeat h = 0..4
        let place$(h) = (row * params.heads + head + $(h)u) * params.splits + split;
        //:repeat p = 0..PIECES
        var q$(h)_$(p)_low = vec4<f32>();
        var q$(h)_$(p)_high = vec4<f32>();
        var sum$(h)_$(p)_low = vec4<f32>();
        var sum$(h)_$(p)_high = vec4<f32>();
        if $(h)u < block_heads && has$(p) {
            let source = 2u * ((row * params.heads + head + $(h)u) * params.octets + octet$(p));
            q$(h)_$(p)_low = q[source] * params.scale;
            q$(h)_$(p)_high = q[source + 1u] * params.scale;
        }
        //:end
        //:end
        var largest = vec4<f32>(MASKED);
        var weight_sum = vec4<f32>();
        if params.resume != 0u && own == 0u {
            //:repeat h = 0..4
            if $(h)u < block_heads {
                largest[$(h)] = stats[place$(h)].x;
                // Four threads' weights are added up in the end.
                weight_sum[$(h)] = select(0.0, stats[place$(h)].y, within % 4u == 0u);
                //:repeat p = 0..PIECES
                if has$(p) {
                    let source = 2u * (place$(h) * params.octets + octet$(p));
                    sum$(h)_$(p)_low = sums[source];
                    sum$(h)_$(p)_high = sums[source + 1u];
                }
                //:end
            }
            //:end
        }

        // Loads run ahead: of places by two steps, of keys by one, and of a step's values while its keys are multiplied.
        let step = groups * 4u;
        //:repeat t = 0..TOKENS
        var place_now$(t) = ABSENT;
        var place_next$(t) = ABSENT;
        if begin < end {
            place_now$(t) = token_place(view, begin + 4u * own + $(t)u, end);
            place_next$(t) = token_place(view, begin + step + 4u * own + $(t)u, end);
        }
        //:end
        //:repeat t = 0..TOKENS
        //:repeat p = 0..PIECES
        var k$(t)_$(p) = vec4<u32>();
        if PIECES > $(p)u {
            k$(t)_$(p) = kv[select(place_now$(t), 0u, place_now$(t) == ABSENT) * params.kv_pitch + kv_octet$(p)];
        }
        //:end
        //:end
        for (var at = begin; at < end; at += step) {
            //:repeat t = 0..TOKENS
            let seen$(t) = place_now$(t) != ABSENT;
            let values$(t) = select(0u, place_now$(t), seen$(t)) * params.kv_pitch + params.values;
            //:repeat p = 0..PIECES
            var v$(t)_$(p) = vec4<u32>();
            if PIECES > $(p)u {
                v$(t)_$(p) = kv[values$(t) + kv_octet$(p)];
            }
            //:end
            //:end
            //:repeat t = 0..TOKENS
            place_now$(t) = place_next$(t);
            place_next$(t) = token_place(view, at + 2u * step + 4u * own + $(t)u, end);
            //:end
            //:repeat t = 0..TOKENS
            var score$(t) = vec4<f32>();
            //:repeat p = 0..PIECES
            if PIECES > $(p)u {
                let low = vec4<f32>(unpack2x16float(k$(t)_$(p).x), unpack2x16float(k$(t)_$(p).y));
                let high = vec4<f32>(unpack2x16float(k$(t)_$(p).z), unpack2x16float(k$(t)_$(p).w));
                score$(t) += vec4<f32>(dot(q0_$(p)_low, low), dot(q1_$(p)_low, low), dot(q2_$(p)_low, low), dot(q3_$(p)_low, low));
                score$(t) += vec4<f32>(dot(q0_$(p)_high, high), dot(q1_$(p)_high, high), dot(q2_$(p)_high, high), dot(q3_$(p)_high, high));
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
            // Each thread weighs the token that it has the scores of.
            let seen = select(select(seen0, seen1, odd), select(seen2, seen3, odd), second);
            let score = select(vec4<f32>(MASKED), token_sums(array(score0, score1, score2, score3), odd, second), seen);
            let mine = weighed(score, seen, largest);
            largest = mine.largest;
            weight_sum = weight_sum * mine.keep + mine.weight;
            //:repeat h = 0..4
            //:repeat p = 0..PIECES
            sum$(h)_$(p)_low *= mine.keep[$(h)];
            sum$(h)_$(p)_high *= mine.keep[$(h)];
            //:end
            //:end
            //:repeat t = 0..TOKENS
            let weight$(t) = subgroupShuffle(mine.weight, lane.within - within % 4u + $(t)u);
            //:repeat p = 0..PIECES
            if PIECES > $(p)u {
                let low = vec4<f32>(unpack2x16float(v$(t)_$(p).x), unpack2x16float(v$(t)_$(p).y));
                let high = vec4<f32>(unpack2x16float(v$(t)_$(p).z), unpack2x16float(v$(t)_$(p).w));
                //:repeat h = 0..4
                sum$(h)_$(p)_low += weight$(t)[$(h)] * low;
                sum$(h)_$(p)_high += weight$(t)[$(h)] * high;
                //:end
            }
            //:end
            //:end
        }
        // Groups become one: each scales its sums to the largest maximum.
        let all = groups_meet(largest, of_four(weight_sum), within, own, groups);
        let factor = exp(largest - all.largest);
        let divisor = select(vec4<f32>(1.0), max(all.weight, vec4<f32>(1.0e-30)), params.finish != 0u);
        // A head at a time: thread `i` adds up quad `i` of what the groups hold of it. Two buffers take turns, so that one barrier a head is enough.
        let slot = 2u * (own * LANES + within);
        //:repeat p = 0..PIECES
        if PIECES > $(p)u {
            let to = 2u * $(p)u * LANES + lane.thread;
            //:repeat h = 0..4
            parts[2u * WORKGROUP * ($(h)u % 2u) + slot] = factor[$(h)] * sum$(h)_$(p)_low;
            parts[2u * WORKGROUP * ($(h)u % 2u) + slot + 1u] = factor[$(h)] * sum$(h)_$(p)_high;
            workgroupBarrier();
            if lane.thread < 2u * LANES && to < 2u * params.octets && $(h)u < block_heads {
                var value = vec4<f32>();
                for (var g = 0u; g < groups; g++) {
                    value += parts[2u * WORKGROUP * ($(h)u % 2u) + 2u * LANES * g + lane.thread];
                }
                sums[2u * place$(h) * params.octets + to] = value / divisor[$(h)];
            }
            //:end
        }
        //:end
        if lane.thread < block_heads && params.finish == 0u {
            let place = place0 + lane.thread * params.splits;
            stats[place] = vec2<f32>(all.largest[lane.thread], all.weight[lane.thread]);
        }
        // What the groups' sums were in is written again for the next row.
        workgroupBarrier();

        continuing {
            row += params.row_step;
            desc_view = rows[row].view;
            position = rows[row].position;
        }
    }
}
