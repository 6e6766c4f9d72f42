// What: attention of 64 queries that share a key head, over one split of their views, by matrix units: weighted sum, maximum, sum of weights.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = splits, y = key heads, z = rows * group / 64; 64 tokens at a time. Two of eight subgroups of 32 threads share 16 queries.
// Shared: 17 KiB for keys and then values, 20 KiB for scores, 9 KiB for weights, 2 KiB for maxima, slots and rows' views.
// Numerics: queries and weights are rounded to f16; sums in f32. Weights refer to a number that follows the largest score in steps of 2^10.

enable f16;
enable wgpu_cooperative_matrix;

const WORKGROUP: u32 = 256u;
//:variant head = part/head_64 | part/head_128
//:import part/layout

struct Params {
    rows: u32,
    // The first query of this dispatch: of each row, those of a key head follow each other.
    first_query: u32,
    heads: u32,
    // Query heads of a key head.
    group: u32,
    // Tokens of a split, and splits.
    split_tokens: u32,
    splits: u32,
    // The vec4s of a slot, and of its keys.
    kv_pitch: u32,
    values: u32,
    // Whether the sum is divided by the weights here, because there is one split only.
    finish: u32,
    // Whether rows that share their view with no neighbour are served elsewhere.
    lone: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> kv: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> views: array<ViewDesc>;
@group(0) @binding(6) var<storage, read> entries: array<u32>;
// [row][head][split][head_dim], and [row][head][split] as maximum and sum of weights.
@group(0) @binding(7) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> stats: array<vec2<f32>>;

//:import part/lone

const QUERIES: u32 = 64u;
const TOKENS: u32 = 64u;
// vec4s of a row of each tile: those that it holds, and two more that spread a column over the banks of workgroup memory.
const QUADS: u32 = DIM / 4u;
const PITCH: u32 = QUADS + 2u;
const SCORE_PITCH: u32 = TOKENS / 8u + 2u;
const WEIGHT_PITCH: u32 = TOKENS / 4u + 2u;
var<workgroup> tile: array<vec4<f16>, TOKENS * PITCH>;
// Of each subgroup, and later its sums, 16 elements at a time.
var<workgroup> scores: array<vec4<f32>, 8u * 16u * SCORE_PITCH>;
var<workgroup> weights: array<vec4<f16>, QUERIES * WEIGHT_PITCH>;
// Of each query in each half of the tokens; later its sum of weights.
var<workgroup> maxima: array<f32, 2u * QUERIES>;
var<workgroup> slots: array<u32, 2u * TOKENS>;
// Of each row of the tile: its view, how many tokens of it are read here, and whether it is the first that reads that view.
var<workgroup> row_views: array<u32, QUERIES>;
var<workgroup> row_seen: array<u32, QUERIES>;
var<workgroup> row_leads: array<u32, QUERIES>;

// Stands for 'no score', in units of log2.
const MASKED: f32 = -1.0e30;
const LOG2_E: f32 = 1.4426950408889634;
// How far a score may exceed the reference before that follows: weights stay below 2^10, which f16 holds.
const SLACK: f32 = 10.0;

// Whether a row, one of `row_count`, is served here.
fn serves(row: u32, row_count: u32) -> bool {
    return (params.lone == 0u) | !is_lone(row, row_count);
}

// The end of a split of what is seen.
fn split_end(seen: u32, split: u32) -> u32 {
    return select(min((split + 1u) * params.split_tokens, seen), seen, split + 1u == params.splits);
}

// The slot of a token of a view.
fn view_slot(view: ViewDesc, token: u32) -> u32 {
    return entry_index(entries[view.first + token / view.run]) * view.run + token % view.run;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) within: u32,
) {
    let first_query = params.first_query + QUERIES * workgroup.z;
    let first_row = first_query / params.group;
    let count_rows = min(count[0], params.rows);
    // All of a workgroup leave together.
    if first_row >= count_rows {
        return;
    }
    let last_row = min((first_query + QUERIES - 1u) / params.group, count_rows - 1u);
    let tile_rows = last_row + 1u - first_row;
    if thread < QUERIES {
        let row = min(first_row + thread, last_row);
        let seen = view_visible(views[rows[row].view], rows[row].position);
        row_views[thread] = rows[row].view;
        row_seen[thread] = select(0u, seen, (thread < tile_rows) & serves(row, count_rows));
    }
    let split = workgroup.x;
    let kv_head = workgroup.y;

    // What a thread brings in: one quad of every `STRIDE`th row of a tile.
    let quad = thread % QUADS;
    let tile_row = thread / QUADS;
    let tile_place = tile_row * PITCH + quad;
    let key_quad = kv_head * QUADS + quad;
    let value_quad = params.values + key_quad;

    // Queries as factors, through the tile.
    //:repeat i = 0..TILE_QUADS
    {
        let query = first_query + tile_row + $(i)u * (WORKGROUP / QUADS);
        let row = min(query / params.group, count_rows - 1u);
        let head = kv_head * params.group + query % params.group;
        let element = q[(row * params.heads + head) * QUADS + quad] * (params.scale * LOG2_E);
        tile[tile_place + $(i)u * (WORKGROUP / QUADS) * PITCH] = vec4<f16>(clamp(element, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
    }
    //:end
    workgroupBarrier();
    let own = 16u * (subgroup / 2u);
    // The half of the tokens that it scores, and of the elements that it sums.
    let side = subgroup % 2u;
    if thread < QUERIES {
        var leads = row_seen[thread] > 0u;
        for (var earlier = 0u; earlier < thread; earlier++) {
            leads = leads & ((row_seen[earlier] == 0u) | (row_views[earlier] != row_views[thread]));
        }
        row_leads[thread] = u32(leads);
    }
    //:repeat d = 0..BLOCKS
    let query$(d) = coopLoadT<coop_mat16x16<f16, A>>(&tile[own * PITCH + 4u * $(d)u], PITCH);
    //:end
    //:repeat d = 0..SUMS
    var sum$(d) = coop_mat16x16<f32, C>();
    //:end
    workgroupBarrier();

    // Two threads of each subgroup share a query in the softmax, and take its quads of scores in turn.
    let pair = within % 2u;
    let local = own + within / 2u;
    let my_query = first_query + local;
    let my_row = my_query / params.group;
    let tile_own = my_row - first_row;
    let mine = (my_row < count_rows) & serves(min(my_row, count_rows - 1u), count_rows);
    let own_scores = 16u * subgroup * SCORE_PITCH;
    let my_scores = own_scores + (within / 2u) * SCORE_PITCH + pair;
    let my_weights = local * WEIGHT_PITCH + side * (TOKENS / 8u) + pair;
    let score_pitch = SCORE_PITCH;
    // Of its tokens, and of its elements, in a row of keys or values.
    let side_tokens = side * (TOKENS / 2u);
    let side_quads = side * (QUADS / 2u);
    var reference = MASKED;
    var weight_sum = 0.0;

    // Rows of a chunk read one view and are taken together; each further view among the rows takes another turn.
    for (var leader = 0u; leader < tile_rows; leader++) {
        let view_index = row_views[leader];
        let view = views[view_index];
        var seen = 0u;
        for (var row = select(tile_rows, leader, row_leads[leader] != 0u); row < tile_rows; row++) {
            seen = max(seen, select(0u, row_seen[row], row_views[row] == view_index));
        }
        let own_seen = select(0u, row_seen[tile_own], row_views[tile_own] == view_index);
        var end = split_end(seen, split);
        let limit = select(0u, split_end(own_seen, split), row_leads[leader] != 0u);
        let start = split * params.split_tokens;
        var parity = 0u;
        var slot_ahead = 0u;
        //:repeat i = 0..TILE_QUADS
        var next$(i) = vec4<f16>();
        //:end
        if start < end {
            if thread < TOKENS {
                slots[thread] = view_slot(view, min(start + thread, end - 1u));
                slot_ahead = view_slot(view, min(start + TOKENS + thread, end - 1u));
            }
            workgroupBarrier();
            //:repeat i = 0..TILE_QUADS
            next$(i) = kv[slots[tile_row + $(i)u * (WORKGROUP / QUADS)] * params.kv_pitch + key_quad];
            //:end
        }
        for (var at = start; at < end; at += TOKENS) {
            //:repeat i = 0..TILE_QUADS
            tile[tile_place + $(i)u * (WORKGROUP / QUADS) * PITCH] = next$(i);
            //:end
            if thread < TOKENS {
                slots[(1u - parity) * TOKENS + thread] = slot_ahead;
            }
            workgroupBarrier();
            // Values are fetched while keys are multiplied, and the next keys while values are.
            //:repeat i = 0..TILE_QUADS
            next$(i) = kv[slots[parity * TOKENS + tile_row + $(i)u * (WORKGROUP / QUADS)] * params.kv_pitch + value_quad];
            //:end
            //:repeat t = 0..2
            {
                var score = coop_mat16x16<f32, C>();
                //:repeat d = 0..BLOCKS
                {
                    let keys = coopLoad<coop_mat16x16<f16, B>>(&tile[(side_tokens + 16u * $(t)u) * PITCH + 4u * $(d)u], PITCH);
                    score = coopMultiplyAdd(query$(d), keys, score);
                }
                //:end
                // naga 30 takes only names here.
                let corner = &scores[own_scores + 4u * $(t)u];
                let product = score;
                coopStoreT(product, corner, score_pitch);
            }
            //:end
            subgroupBarrier();
            var largest = MASKED;
            //:repeat i = 0..4
            let token$(i) = vec4<u32>(at + side_tokens + 4u * (2u * $(i)u + pair)) + vec4<u32>(0u, 1u, 2u, 3u);
            let score$(i) = select(vec4<f32>(MASKED), scores[my_scores + 2u * $(i)u], token$(i) < vec4<u32>(limit));
            largest = max(largest, max(max(score$(i).x, score$(i).y), max(score$(i).z, score$(i).w)));
            //:end
            largest = max(largest, subgroupShuffleXor(largest, 1u));
            if pair == 0u {
                maxima[side * QUERIES + local] = largest;
            }
            // All have read the keys, and maxima are there.
            workgroupBarrier();
            //:repeat i = 0..TILE_QUADS
            tile[tile_place + $(i)u * (WORKGROUP / QUADS) * PITCH] = next$(i);
            //:end
            largest = max(largest, maxima[(1u - side) * QUERIES + local]);
            let follows = largest > reference + SLACK;
            let fresh = select(reference, largest, follows);
            let keep = exp2(reference - fresh);
            reference = fresh;
            weight_sum *= keep;
            //:repeat i = 0..4
            {
                let weight = select(vec4<f32>(), exp2(score$(i) - reference), token$(i) < vec4<u32>(limit));
                weight_sum += dot(weight, vec4<f32>(1.0));
                weights[my_weights + 2u * $(i)u] = vec4<f16>(weight);
            }
            //:end
            // Rare: the sums pass through the scores' place, where they can be multiplied. A loop, since naga takes no `if` around matrices.
            var rescale = subgroupAny(follows);
            loop {
                if !rescale {
                    break;
                }
                rescale = false;
                //:repeat d = 0..SUMS
                {
                    subgroupBarrier();
                    let corner = &scores[own_scores];
                    let product = sum$(d);
                    coopStoreT(product, corner, score_pitch);
                    subgroupBarrier();
                    scores[my_scores] *= keep;
                    scores[my_scores + 2u] *= keep;
                    subgroupBarrier();
                    sum$(d) = coopLoadT<coop_mat16x16<f32, C>>(&scores[own_scores], SCORE_PITCH);
                }
                //:end
            }
            parity = 1u - parity;
            workgroupBarrier();
            //:repeat i = 0..TILE_QUADS
            next$(i) = kv[slots[parity * TOKENS + tile_row + $(i)u * (WORKGROUP / QUADS)] * params.kv_pitch + key_quad];
            //:end
            if thread < TOKENS {
                slot_ahead = view_slot(view, min(at + 2u * TOKENS + thread, end - 1u));
            }
            //:repeat t = 0..4
            {
                let weight = coopLoadT<coop_mat16x16<f16, A>>(&weights[own * WEIGHT_PITCH + 4u * $(t)u], WEIGHT_PITCH);
                //:repeat d = 0..SUMS
                {
                    let values = coopLoadT<coop_mat16x16<f16, B>>(&tile[16u * $(t)u * PITCH + side_quads + 4u * $(d)u], PITCH);
                    sum$(d) = coopMultiplyAdd(weight, values, sum$(d));
                }
                //:end
            }
            //:end
            workgroupBarrier();
        }
    }

    let half_total = weight_sum + subgroupShuffleXor(weight_sum, 1u);
    if pair == 0u {
        maxima[side * QUERIES + local] = half_total;
    }
    workgroupBarrier();
    let total = half_total + maxima[(1u - side) * QUERIES + local];
    let factor = select(1.0, 1.0 / max(total, 1.0e-30), params.finish != 0u);
    let head = kv_head * params.group + my_query % params.group;
    let place = (my_row * params.heads + head) * params.splits + split;
    //:repeat d = 0..SUMS
    {
        subgroupBarrier();
        let corner = &scores[own_scores];
        let product = sum$(d);
        coopStoreT(product, corner, score_pitch);
        subgroupBarrier();
        if mine {
            sums[place * QUADS + side_quads + 4u * $(d)u + pair] = scores[my_scores] * factor;
            sums[place * QUADS + side_quads + 4u * $(d)u + pair + 2u] = scores[my_scores + 2u] * factor;
        }
    }
    //:end
    if mine && side == 0u && pair == 0u && params.finish == 0u {
        stats[place] = vec2<f32>(reference / LOG2_E, total);
    }
}
