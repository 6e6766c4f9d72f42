// What: attention of a few rows' up to four query heads that share a key head, over one split of their views: weighted sum, maximum, sum of weights.
// Contract: engine/contract/src/op/attend.rs
// Grid: x = splits, y = key heads * blocks of four query heads, z = rows / ROWS; 64 threads take 64 tokens at a time.
// Shared: 8 KiB for queries and then for sums, 1 KiB a row for weights, 256 bytes for slots, and the reduction's.
// Numerics: f32 from f16 rows; online softmax over tiles of 64 tokens; a split that sees nothing gives weight 0.

const WORKGROUP: u32 = 64u;
//:variant rows = part/query_rows_1 | part/query_rows_4
//:variant reduce = part/reduce_subgroup | part/reduce_workgroup
//:import part/window
//:import part/math

struct Params {
    rows: u32,
    // The first row of this dispatch.
    first_row: u32,
    heads: u32,
    // Query heads of a key head, and blocks of four among them.
    group: u32,
    blocks: u32,
    head_dim: u32,
    // Tokens of a split, and splits.
    split_tokens: u32,
    splits: u32,
    // The window of slots, the vec4s of a slot, and of its keys.
    first_slot: u32,
    slots: u32,
    kv_pitch: u32,
    values: u32,
    // Whether an earlier dispatch has seen other slots of the split, and whether the sum is divided by the weights here, because there is
    // one split only and no dispatch follows.
    resume: u32,
    finish: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> views: array<ViewDesc>;
@group(0) @binding(6) var<storage, read> entries: array<u32>;
// [row][head][split][head_dim], and [row][head][split] as maximum and sum of weights.
@group(0) @binding(7) var<storage, read_write> sums: array<f32>;
@group(0) @binding(8) var<storage, read_write> stats: array<vec2<f32>>;

// Component h of every vec4 below belongs to the block's head h. The tile holds queries as [row][element], and at the end the sums of one
// row as [thread][element of its octet].
var<workgroup> tile: array<vec4<f32>, 512>;
var<workgroup> weights: array<vec4<f32>, 64u * ROWS>;
var<workgroup> tokens: array<u32, 64>;

// The end of what a row sees of a split, where the row reads this view; otherwise 0.
fn row_limit(row: u32, view: u32, split: u32) -> u32 {
    if row >= min(count[0], params.rows) || rows[row].view != view {
        return 0u;
    }
    let visible = view_visible(views[view], rows[row].position);
    return select(min((split + 1u) * params.split_tokens, visible), visible, split + 1u == params.splits);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let first_row = params.first_row + group.z * ROWS;
    let count_rows = min(count[0], params.rows);
    if first_row >= count_rows {
        return;
    }
    let tile_rows = min(count_rows - first_row, ROWS);
    let thread = lane.thread;
    let split = group.x;
    let kv_head = group.y / params.blocks;
    let block = group.y % params.blocks;
    let head = kv_head * params.group + 4u * block;
    let block_heads = min(params.group - 4u * block, 4u);
    let dim = params.head_dim;
    let octets = dim / 8u;
    for (var i = thread; i < tile_rows * dim; i += WORKGROUP) {
        let base = ((first_row + i / dim) * params.heads + head) * dim + i % dim;
        var element = vec4<f32>();
        //:repeat h = 0..4
        if block_heads > $(h)u {
            element[$(h)] = q[base + $(h)u * dim];
        }
        //:end
        tile[i] = element * params.scale;
    }
    workgroupBarrier();

    // In the second half of a step a thread takes one octet of a value row, of every `token_lanes`th token.
    let octet = thread % octets;
    let token_lane = thread / octets;
    let token_lanes = WORKGROUP / octets;
    //:repeat r = 0..ROWS
    let place$(r) = ((first_row + $(r)u) * params.heads + head) * params.splits + split;
    var largest$(r) = vec4<f32>(MASKED);
    var weight_sum$(r) = vec4<f32>();
    //:repeat e = 0..8
    var sum$(r)_$(e) = vec4<f32>();
    //:end
    if params.resume != 0u && $(r)u < tile_rows {
        //:repeat h = 0..4
        if $(h)u < block_heads {
            let place = place$(r) + $(h)u * params.splits;
            largest$(r)[$(h)] = stats[place].x;
            if thread == 0u {
                weight_sum$(r)[$(h)] = stats[place].y;
            }
            if token_lane == 0u {
                //:repeat e = 0..8
                sum$(r)_$(e)[$(h)] = sums[place * dim + 8u * octet + $(e)u];
                //:end
            }
        }
        //:end
    }
    //:end

    // Rows of a chunk read one view and are taken together; each further view among the rows takes another turn.
    for (var leader = first_row; leader < first_row + tile_rows; leader++) {
        let view_index = rows[leader].view;
        var is_new = true;
        for (var earlier = first_row; earlier < leader; earlier++) {
            is_new = is_new && rows[earlier].view != view_index;
        }
        let view = views[view_index];
        var end = 0u;
        //:repeat r = 0..ROWS
        let limit$(r) = select(0u, row_limit(first_row + $(r)u, view_index, split), is_new);
        end = max(end, limit$(r));
        //:end
        for (var at = split * params.split_tokens; at < end; at += WORKGROUP) {
            var local = ABSENT;
            if at + thread < end {
                local = local_slot(view, at + thread);
            }
            //:repeat r = 0..ROWS
            var score$(r) = vec4<f32>();
            //:end
            if local != ABSENT {
                let base = local * params.kv_pitch + kv_head * octets;
                for (var o = 0u; o < octets; o++) {
                    let words = kv[base + o];
                    //:repeat w = 0..4
                    let pair$(w) = unpack2x16float(words[$(w)]);
                    //:end
                    //:repeat r = 0..ROWS
                    if at < limit$(r) {
                        let element = $(r)u * dim + 8u * o;
                        //:repeat w = 0..4
                        score$(r) += tile[element + 2u * $(w)u] * pair$(w).x;
                        score$(r) += tile[element + 2u * $(w)u + 1u] * pair$(w).y;
                        //:end
                    }
                    //:end
                }
            }
            //:repeat r = 0..ROWS
            if at < limit$(r) {
                let seen = local != ABSENT && at + thread < limit$(r);
                let masked = select(vec4<f32>(MASKED), score$(r), seen);
                let new_largest = max(largest$(r), reduce_max4(masked, lane));
                let keep = exp(largest$(r) - new_largest);
                let weight = select(vec4<f32>(), exp(masked - new_largest), seen);
                largest$(r) = new_largest;
                weight_sum$(r) = weight_sum$(r) * keep + weight;
                // The reduction's barriers lie between this and the last step's reads.
                weights[64u * $(r)u + thread] = weight;
                //:repeat e = 0..8
                sum$(r)_$(e) *= keep;
                //:end
            }
            //:end
            tokens[thread] = local;
            workgroupBarrier();
            let step_tokens = min(end - at, WORKGROUP);
            if token_lane < token_lanes {
                for (var t = token_lane; t < step_tokens; t += token_lanes) {
                    let slot = tokens[t];
                    if slot != ABSENT {
                        let words = kv[slot * params.kv_pitch + params.values + kv_head * octets + octet];
                        //:repeat w = 0..4
                        let pair$(w) = unpack2x16float(words[$(w)]);
                        //:end
                        //:repeat r = 0..ROWS
                        if at < limit$(r) {
                            let weight = weights[64u * $(r)u + t];
                            sum$(r)_0 += weight * pair0.x;
                            sum$(r)_1 += weight * pair0.y;
                            sum$(r)_2 += weight * pair1.x;
                            sum$(r)_3 += weight * pair1.y;
                            sum$(r)_4 += weight * pair2.x;
                            sum$(r)_5 += weight * pair2.y;
                            sum$(r)_6 += weight * pair3.x;
                            sum$(r)_7 += weight * pair3.y;
                        }
                        //:end
                    }
                }
            }
        }
    }

    //:repeat r = 0..ROWS
    // All have read the tile before it takes these sums; the reduction's barriers also publish them.
    workgroupBarrier();
    //:repeat e = 0..8
    tile[8u * thread + $(e)u] = sum$(r)_$(e);
    //:end
    let total$(r) = reduce_add4(weight_sum$(r), lane);
    if $(r)u < tile_rows {
        let factor = select(vec4<f32>(1.0), 1.0 / max(total$(r), vec4<f32>(1.0e-30)), params.finish != 0u);
        for (var e = thread; e < dim; e += WORKGROUP) {
            var value = vec4<f32>();
            for (var l = 0u; l < token_lanes; l++) {
                value += tile[8u * l * octets + e];
            }
            value *= factor;
            for (var h = 0u; h < block_heads; h++) {
                sums[(place$(r) + h * params.splits) * dim + e] = value[h];
            }
        }
        if thread < block_heads && params.finish == 0u {
            stats[place$(r) + thread * params.splits] = vec2<f32>(largest$(r)[thread], total$(r)[thread]);
        }
    }
    //:end
}
