// What: scales and codes of each coded token of the blocks into `latents`; its error and its gain into `outcomes`.
// Contract: engine/contract/src/op/pack.rs
// Grid: y * x_groups + x = tokens / TOKENS; 128 threads take TOKENS tokens at once, so that what a latent needs is read once for all of them.
// Shared: 8 KiB of codes, 4 KiB of scales, 1 KiB for their extremes, and 1 KiB for the sums.
// Numerics: what is rounded to f16 or a code, or ranked, is summed in pairs of f32 and divided as IEEE 754 says, on every device alike; what codes lose,
// which is small beside what they are taken from, is summed in f32 first.

const WORKGROUP: u32 = 128u;
//:import part/latent
//:import part/math
//:import part/double

// Rules of scales.
const PLAIN: u32 = 0u;
const GAIN: u32 = 1u;
const SYMMETRIC: u32 = 2u;
const MIN_MAX: u32 = 3u;
// The gain of a token whose leading latents are all zero.
const LEAST_GAIN: f32 = 6.103515625e-5;
// Threads that look for the extremes of a group.
const SEEKERS: u32 = 16u;

struct Params {
    blocks: u32,
    // Workgroups along x.
    x_groups: u32,
    // Elements of a row of latents.
    z_pitch: u32,
    // Always zero.
    zero: u32,
    // The shape of blocks; a group takes in all latents where scales have none.
    cols: u32,
    rank: u32,
    group: u32,
    groups: u32,
    rule: u32,
    words: u32,
    stride: u32,
    references: u32,
    scales: u32,
    scales_at: u32,
    code_words: u32,
    codes_at: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> blocks: array<BlockDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> entries: array<u32>;
@group(0) @binding(6) var<storage, read> metric: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> components: array<ComponentDesc>;
@group(0) @binding(8) var<storage, read> energy: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> latents: array<u32>;
// [token]: the error as a pair, and the bits of the gain.
@group(0) @binding(10) var<storage, read_write> outcomes: array<vec4<f32>>;

// Tokens of a workgroup: 1, 2 or 4.
override TOKENS: u32 = 4u;

// Each token has its share of codes and scales.
const CODE_ROOM: u32 = 2048u;
const SCALE_ROOM: u32 = 512u;
var<workgroup> codes: array<atomic<u32>, CODE_ROOM>;
// Scale and minimum of each group; in the end [token][thread], what a thread found of a token's error.
var<workgroup> scales: array<vec2<f32>, SCALE_ROOM>;
// Least and largest latent that a thread found.
var<workgroup> extremes: array<vec2<f32>, WORKGROUP>;

// The f16 nearest to a number.
fn halved(value: f32) -> f32 {
    return unpack2x16float(half_bits(value)).x;
}

// The root of a sum of squares over the number of latents, rounded once.
fn gain_of(squares: vec2<f32>, leading: f32) -> f32 {
    if squares.x < 1.0e-30 {
        return LEAST_GAIN;
    }
    let near = hidden(sqrt(squares.x / leading));
    let reached = double_scale(double_square(near), leading);
    let rest = (squares.x - reached.x) + (squares.y - reached.y);
    let gain = halved(near + rest / (2.0 * leading * near));
    return select(LEAST_GAIN, gain, gain > 0.0);
}

fn scale_of(bounds: vec2<f32>, group: u32) -> vec2<f32> {
    if params.rule == MIN_MAX {
        return vec2<f32>(halved(quotient(bounds.y - bounds.x, 15.0)), halved(bounds.x));
    }
    let first = components[group * params.group];
    let unit = first.zero * first.step;
    if unit <= 0.0 {
        return vec2<f32>();
    }
    return vec2<f32>(halved(quotient(max(bounds.y, -bounds.x), unit)), 0.0);
}

// A latent's value of a token.
fn latent_of(start: u32, i: u32) -> f32 {
    return z[start + i / 4u][i % 4u];
}

// The code of a value, which it also restores.
fn code_of(value: f32, component: ComponentDesc, scale: vec2<f32>) -> vec2<f32> {
    if params.rule == PLAIN {
        let code = half_bits(value);
        return vec2<f32>(f32(code), unpack2x16float(code).x);
    }
    let padding = select(0.0, 1.0e-6, params.rule == MIN_MAX);
    let unit = (scale.x + padding) * component.step;
    var steps = 0.0;
    if unit > 0.0 {
        steps = quotient(value - scale.y, unit);
    }
    let largest = f32((1u << component.bits) - 1u);
    let code = clamp(round(steps + component.zero), 0.0, largest);
    return vec2<f32>(code, scale.x * (component.step * (code - component.zero)) + scale.y);
}

// Codes that share a word: a thread joins its own before it stores them, since others store theirs there at the same time.
fn store_codes(place: u32, joined: u32) {
    if joined != 0u {
        atomicOr(&codes[place], joined);
    }
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    // A team of threads looks for the scale of a token.
    let team_size = WORKGROUP / TOKENS;
    let team = thread / team_size;
    let own = thread % team_size;
    // All of the workgroup's tokens are in one block.
    let first_row = (group.y * params.x_groups + group.x) * TOKENS;
    let row = first_row + team;
    let lane = row % BLOCK;
    if first_row / BLOCK >= min(count[0], params.blocks) {
        return;
    }
    // References have no codes.
    let coded = !is_reference(lane);
    let block = blocks[first_row / BLOCK];
    let record = record_base(block.blocks, block.index);
    let pitch = params.z_pitch / 4u;
    let start = row * pitch;
    let code_room = CODE_ROOM / TOKENS;
    let scale_room = SCALE_ROOM / TOKENS;
    let first_code = team * code_room;
    let first_scale = team * scale_room;
    for (var word = own; word < params.code_words; word += team_size) {
        atomicStore(&codes[first_code + word], 0u);
    }
    if params.rule == GAIN {
        let leading = min(params.rank, GAIN_LATENTS);
        var squares = vec2<f32>();
        for (var i = own; i < leading; i += team_size) {
            squares = double_add(squares, double_square(latent_of(start, i)));
        }
        let gain = gain_of(double_total(squares, thread, team_size), f32(leading));
        if own == 0u {
            scales[first_scale] = vec2<f32>(gain, 0.0);
        }
    } else if params.rule != PLAIN {
        for (var first = 0u; first < params.groups; first += team_size / SEEKERS) {
            let sought = first + own / SEEKERS;
            let end = min((sought + 1u) * params.group, params.rank);
            var bounds = vec2<f32>(3.0e38, -3.0e38);
            for (var i = sought * params.group + own % SEEKERS; i < end; i += SEEKERS) {
                let value = latent_of(start, i);
                bounds = vec2<f32>(min(bounds.x, value), max(bounds.y, value));
            }
            extremes[thread] = bounds;
            workgroupBarrier();
            if own % SEEKERS == 0u && sought < params.groups {
                for (var i = 1u; i < SEEKERS; i++) {
                    let other = extremes[thread + i];
                    bounds = vec2<f32>(min(bounds.x, other.x), max(bounds.y, other.y));
                }
                scales[first_scale + sought] = scale_of(bounds, sought);
            }
            workgroupBarrier();
        }
    }
    workgroupBarrier();

    // Gains, of which two tokens share a word, are stored with the escapes.
    if coded && (params.rule == SYMMETRIC || params.rule == MIN_MAX) {
        let to = record + params.scales_at + coded_index(lane) * params.scales / 2u;
        for (var word = own; word < params.scales / 2u; word += team_size) {
            if params.rule == MIN_MAX {
                let scale = scales[first_scale + word];
                latents[to + word] = half_pair(scale.x, scale.y);
            } else {
                var second = 0.0;
                if 2u * word + 1u < params.groups {
                    second = scales[first_scale + 2u * word + 1u].x;
                }
                latents[to + word] = half_pair(scales[first_scale + 2u * word].x, second);
            }
        }
    }

    // Of all tokens together: four latents at a time, then four columns.
    //:repeat t = 0..4
    var error$(t) = vec2<f32>();
    var lost$(t) = 0.0;
    //:end
    for (var quad = thread; 4u * quad < params.rank; quad += WORKGROUP) {
        var weights = energy[quad];
        //:repeat t = 0..4
        var values$(t) = vec4<f32>();
        var joined$(t) = 0u;
        if $(t)u < TOKENS {
            values$(t) = z[(first_row + $(t)u) * pitch + quad];
        }
        //:end
        var word = 0u;
        // A loop, and no more code than its cache holds.
        let end = min(4u * quad + 4u, params.rank);
        for (var i = 4u * quad; i < end; i++) {
            let component = components[i];
            let bit = component.offset % 32u;
            let next = component.offset / 32u;
            var in_group = 0u;
            if params.rule > GAIN {
                in_group = i / params.group;
            }
            if next != word {
                //:repeat t = 0..4
                if $(t)u < TOKENS {
                    store_codes($(t)u * code_room + word, joined$(t));
                    joined$(t) = 0u;
                }
                //:end
                word = next;
            }
            let is_cut = bit + component.bits > 32u;
            let weight = split(weights.x);
            weights = weights.yzwx;
            //:repeat t = 0..4
            if $(t)u < TOKENS {
                let value = values$(t).x;
                values$(t) = values$(t).yzwx;
                var restored = 0.0;
                if component.bits > 0u {
                    let found = code_of(value, component, scales[$(t)u * scale_room + in_group]);
                    let code = u32(found.x);
                    restored = found.y;
                    joined$(t) |= code << bit;
                    if is_cut {
                        store_codes($(t)u * code_room + word, joined$(t));
                        joined$(t) = code >> (32u - bit);
                    }
                }
                let rest = value - restored;
                lost$(t) = fma(weight.z * rest, rest, lost$(t));
                error$(t) = double_add(error$(t), -double_weighed(double_square(value), weight));
            }
            //:end
            if is_cut {
                word += 1u;
            }
        }
        //:repeat t = 0..4
        if $(t)u < TOKENS {
            store_codes($(t)u * code_room + word, joined$(t));
        }
        //:end
    }
    let quads = params.cols / 4u;
    for (var quad = thread; quad < quads; quad += WORKGROUP) {
        let weights = metric[quad];
        //:repeat t = 0..4
        var values$(t) = vec4<f32>();
        if $(t)u < TOKENS {
            values$(t) = residual[(first_row + $(t)u) * quads + quad];
        }
        //:end
        //:repeat c = 0..4
        {
            let weight = split(weights[$(c)]);
            //:repeat t = 0..4
            if $(t)u < TOKENS {
                error$(t) = double_add(error$(t), double_weighed(double_square(values$(t)[$(c)]), weight));
            }
            //:end
        }
        //:end
    }
    let gain = scales[first_scale].x;
    // All have read the scales.
    workgroupBarrier();
    //:repeat t = 0..4
    if $(t)u < TOKENS {
        scales[$(t)u * WORKGROUP + thread] = double_add(error$(t), vec2<f32>(lost$(t), 0.0));
    }
    //:end
    workgroupBarrier();
    var error = vec2<f32>();
    for (var i = own; i < WORKGROUP; i += team_size) {
        error = double_add(error, scales[team * WORKGROUP + i]);
    }
    let total = double_total(error, thread, team_size);
    for (var word = own; coded && word < params.code_words; word += team_size) {
        latents[record + params.codes_at + coded_index(lane) * params.code_words + word] = atomicLoad(&codes[first_code + word]);
    }
    if coded && own == 0u {
        let bits = half_bits(select(0.0, gain, params.rule == GAIN));
        outcomes[row] = vec4<f32>(total, bitcast<f32>(bits), 0.0);
    }
}
