// What: attention of one row's up to four query heads that share a key head, over one split of a store's tokens as they are: rotated codes and raw rows.
// Contract: engine/contract/src/op/attend_stored.rs
// Grid: x = key heads * blocks of four query heads, y = splits, z = rows; groups of LANES threads take four tokens at a time, each on its own.
// Shared: 8 KiB for the groups' sums of two heads, and 1 KiB for their maxima and weights.
// Numerics: f32; values of blocks are summed as codes and rotated back once. The angles of three tokens of four follow from the first one's.

const WORKGROUP: u32 = 128u;
//:let TOKENS = 4
//:import part/layout
//:import part/math
//:import part/crosswise

struct Params {
    rows: u32,
    // The first row of this dispatch.
    first_row: u32,
    heads: u32,
    // Query heads of a key head, and blocks of four among them.
    group: u32,
    blocks: u32,
    // Tokens of a split, and splits.
    split_tokens: u32,
    splits: u32,
    // vec4s of the keys of a row, and of its keys and values.
    width: u32,
    pitch: u32,
    // Blocks: words in all and of a token's codes, halves of its scales, and where both begin.
    words: u32,
    code_words: u32,
    codes_at: u32,
    scales: u32,
    scales_at: u32,
    // vec4s of a row of the rotary table, and its rows.
    rope_pitch: u32,
    rope_rows: u32,
    // Whether the sums are divided by the weights here, and vec4s from one head's sums to the next one's.
    finish: u32,
    sum_pitch: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(3) var<storage, read> count: array<u32>;
@group(0) @binding(4) var<storage, read> stores: array<StoreDesc>;
@group(0) @binding(5) var<storage, read> entries: array<u32>;
@group(0) @binding(6) var<storage, read> raw: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read> mean: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read> latents: array<u32>;
@group(0) @binding(9) var<storage, read> rope: array<vec4<f32>>;
// [row][head][split][head_dim], and behind each head's the maximum and the sum of weights, where they are not divided: with a buffer of their own there
// would be one more than some devices bind.
@group(0) @binding(10) var<storage, read_write> sums: array<vec4<f32>>;

// Threads that share a token, an eighth of a head's elements: a power of two, from 4 to 32, that every subgroup holds.
override LANES: u32 = 16u;
// Bits of a code.
override BITS: u32 = 8u;

// Elements that share a scale.
const GROUP: u32 = 32u;

struct Lane {
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) within: u32,
    @builtin(subgroup_size) size: u32,
}

// What a thread has of a head: four elements of its first half, and the four that are their pairs in the rotary embedding.
struct Pairs {
    low: vec4<f32>,
    high: vec4<f32>,
}

var<workgroup> parts: array<vec4<f32>, 4u * WORKGROUP>;

// The slot of a raw token, and the other way round the first word of a token's block and its place there.
fn raw_slot(store: StoreDesc, position: u32) -> u32 {
    let is_sink = position < store.sinks;
    let page = store.pages + select((store.sinks + PAGE - 1u) / PAGE, 0u, is_sink);
    let i = select(position - store.sinks - store.compressed, position, is_sink);
    return entry_index(entries[page + i / PAGE]) * PAGE + i % PAGE;
}

fn block_place(store: StoreDesc, position: u32) -> vec2<u32> {
    let after = position - store.sinks;
    return vec2<u32>(entry_index(entries[store.blocks + after / BLOCK]) * params.words, after % BLOCK);
}

// Quad `quad` of a token's latents.
fn code_quad(place: vec2<u32>, quad: u32) -> vec4<f32> {
    let half_index = place.y * params.scales + 4u * quad / GROUP;
    let halves = unpack2x16float(latents[place.x + params.scales_at + half_index / 2u]);
    let size = select(halves.x, halves.y, half_index % 2u == 1u);
    let row = place.x + params.codes_at + place.y * params.code_words;
    if BITS == 8u {
        let word = latents[row + quad];
        return size * (vec4<f32>(vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(255u)) - 127.5);
    }
    let word = latents[row + quad / 2u] >> (16u * (quad % 2u));
    return size * (vec4<f32>(vec4<u32>(word, word >> 4u, word >> 8u, word >> 12u) & vec4<u32>(15u)) - 7.5);
}

fn raw_quad(slot: u32, quad: u32) -> vec4<f32> {
    let words = raw[slot * params.pitch + quad];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

// One stage of the rotation, between threads.
fn stage(value: vec4<f32>, bit: u32, within: u32) -> vec4<f32> {
    let other = subgroupShuffleXor(value, bit);
    return select(other + value, other - value, (within & bit) != 0u);
}

fn stages(quad: vec4<f32>, within: u32) -> vec4<f32> {
    let pairs = quad.xxzz + quad.yyww * vec4<f32>(1.0, -1.0, 1.0, -1.0);
    var value = pairs.xyxy + pairs.zwzw * vec4<f32>(1.0, 1.0, -1.0, -1.0);
    value = stage(value, 1u, within);
    value = stage(value, 2u, within);
    if LANES > 4u {
        value = stage(value, 4u, within);
    }
    if LANES > 8u {
        value = stage(value, 8u, within);
    }
    if LANES > 16u {
        value = stage(value, 16u, within);
    }
    return value;
}

// Rotates a head of a group of threads, each of which has some pairs.
fn rotated(z: Pairs, within: u32) -> Pairs {
    let size = inverseSqrt(f32(8u * LANES));
    let low = size * stages(z.low, within);
    let high = size * stages(z.high, within);
    return Pairs(low + high, low - high);
}

// Cosines and sines of the pairs' angles at the positions that row `at` of the table is of.
fn angles(at: u32, within: u32) -> Pairs {
    let first = at * params.rope_pitch + within;
    return Pairs(rope[first], rope[first + LANES]);
}

// Cosines and sines of sums of two angles.
fn turned_on(a: Pairs, b: Pairs) -> Pairs {
    return Pairs(a.low * b.low - a.high * b.high, a.high * b.low + a.low * b.high);
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let row = params.first_row + group.z;
    let counted = count[0];
    let desc_store = rows[row].view;
    let position = rows[row].position;
    if row >= min(counted, params.rows) {
        return;
    }
    let split = group.y;
    let kv_head = group.x / params.blocks;
    let block = group.x % params.blocks;
    let head = kv_head * params.group + 4u * block;
    let block_heads = min(params.group - 4u * block, 4u);
    let store = stores[desc_store];
    let visible = min(store.length, position + 1u);
    let begin = split * params.split_tokens;
    if split > 0u && begin >= visible {
        // The merge does not read it.
        return;
    }
    let end = select(min(begin + params.split_tokens, visible), visible, split + 1u == params.splits);

    let groups = WORKGROUP / LANES;
    let within = lane.within % LANES;
    let odd = within % 2u == 1u;
    let second = within % 4u >= 2u;
    let own = lane.subgroup * (lane.size / LANES) + lane.within / LANES;
    let quads = 2u * LANES;
    let key = kv_head * quads + within;
    let value = params.width + key;
    let key_mean = Pairs(mean[key], mean[key + LANES]);
    //:repeat h = 0..4
    let place$(h) = (row * params.heads + head + $(h)u) * params.splits + split;
    var q$(h)_low = vec4<f32>();
    var q$(h)_high = vec4<f32>();
    var sum$(h)_low = vec4<f32>();
    var sum$(h)_high = vec4<f32>();
    if $(h)u < block_heads {
        let source = (row * params.heads + head + $(h)u) * quads + within;
        q$(h)_low = q[source] * params.scale;
        q$(h)_high = q[source + LANES] * params.scale;
    }
    //:end
    var largest = vec4<f32>(MASKED);
    var weight_sum = vec4<f32>();
    let one_on = angles(1u, within);

    // Blocks first, then raw tokens on both sides of them. What blocks add to the sums is rotated.
    let blocks_begin = clamp(store.sinks, begin, max(begin, end));
    let blocks_end = clamp(store.sinks + store.compressed, blocks_begin, max(blocks_begin, end));
    for (var pass_index = 0u; pass_index < 3u; pass_index++) {
        let is_raw = pass_index != 0u;
        let from_token = select(select(blocks_end, begin, pass_index == 1u), blocks_begin, pass_index == 0u);
        let to_token = select(select(end, blocks_begin, pass_index == 1u), blocks_end, pass_index == 0u);
        for (var at = from_token; at < to_token; at += 4u * groups) {
            let first = at + 4u * own;
            //:repeat t = 0..TOKENS
            let token$(t) = min(first + $(t)u, to_token - 1u);
            let seen$(t) = first + $(t)u < to_token;
            var key$(t) = Pairs();
            var value$(t) = Pairs();
            if is_raw {
                let slot = raw_slot(store, token$(t));
                key$(t) = Pairs(raw_quad(slot, key), raw_quad(slot, key + LANES));
                value$(t) = Pairs(raw_quad(slot, value), raw_quad(slot, value + LANES));
            } else {
                let place = block_place(store, token$(t));
                key$(t) = Pairs(code_quad(place, key), code_quad(place, key + LANES));
                value$(t) = Pairs(code_quad(place, value), code_quad(place, value + LANES));
            }
            //:end
            var turn = turned_on(
                angles(token0 % ROPE_LOW, within),
                angles(min(ROPE_LOW + token0 / ROPE_LOW, params.rope_rows - 1u), within),
            );
            //:repeat t = 0..TOKENS
            var score$(t) = vec4<f32>();
            {
                var k = key$(t);
                if !is_raw {
                    k = rotated(k, within);
                    k.low += key_mean.low;
                    k.high += key_mean.high;
                }
                let low = k.low * turn.low - k.high * turn.high;
                let high = k.high * turn.low + k.low * turn.high;
                score$(t) = vec4<f32>(dot(q0_low, low), dot(q1_low, low), dot(q2_low, low), dot(q3_low, low));
                score$(t) += vec4<f32>(dot(q0_high, high), dot(q1_high, high), dot(q2_high, high), dot(q3_high, high));
                turn = turned_on(turn, one_on);
            }
            //:end
            // Each thread weighs the token that it has the scores of.
            let seen = select(select(seen0, seen1, odd), select(seen2, seen3, odd), second);
            let score = select(vec4<f32>(MASKED), token_sums(array(score0, score1, score2, score3), odd, second), seen);
            let mine = weighed(score, seen, largest);
            largest = mine.largest;
            weight_sum = weight_sum * mine.keep + mine.weight;
            //:repeat h = 0..4
            sum$(h)_low *= mine.keep[$(h)];
            sum$(h)_high *= mine.keep[$(h)];
            //:end
            //:repeat t = 0..TOKENS
            let weight$(t) = subgroupShuffle(mine.weight, lane.within - within % 4u + $(t)u);
            //:repeat h = 0..4
            sum$(h)_low += weight$(t)[$(h)] * value$(t).low;
            sum$(h)_high += weight$(t)[$(h)] * value$(t).high;
            //:end
            //:end
        }
        if pass_index == 0u {
            // Weights are spread over four threads.
            let total = of_four(weight_sum);
            let low_mean = mean[value];
            let high_mean = mean[value + LANES];
            //:repeat h = 0..4
            {
                let back = rotated(Pairs(sum$(h)_low, sum$(h)_high), within);
                sum$(h)_low = back.low + total[$(h)] * low_mean;
                sum$(h)_high = back.high + total[$(h)] * high_mean;
            }
            //:end
        }
    }
    // Groups become one: each scales its sums to the largest maximum.
    let all = groups_meet(largest, of_four(weight_sum), within, own, groups);
    let factor = exp(largest - all.largest);
    let divisor = select(vec4<f32>(1.0), max(all.weight, vec4<f32>(1.0e-30)), params.finish != 0u);
    // A head at a time: thread `i` adds up quad `i` of what the groups hold of it. Two buffers take turns, so that one barrier a head is enough.
    let slot = own * quads + within;
    //:repeat h = 0..4
    parts[2u * WORKGROUP * ($(h)u % 2u) + slot] = factor[$(h)] * sum$(h)_low;
    parts[2u * WORKGROUP * ($(h)u % 2u) + slot + LANES] = factor[$(h)] * sum$(h)_high;
    workgroupBarrier();
    if lane.thread < quads && $(h)u < block_heads {
        var value = vec4<f32>();
        for (var g = 0u; g < groups; g++) {
            value += parts[2u * WORKGROUP * ($(h)u % 2u) + g * quads + lane.thread];
        }
        sums[place$(h) * params.sum_pitch + lane.thread] = value / divisor[$(h)];
    }
    //:end
    if lane.thread < block_heads && params.finish == 0u {
        let place = place0 + lane.thread * params.splits;
        sums[place * params.sum_pitch + quads] = vec4<f32>(all.largest[lane.thread], all.weight[lane.thread], 0.0, 0.0);
    }
}
