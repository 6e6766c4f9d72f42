// What: scales and codes of each coded token of the blocks into `latents`; its error and its gain into `outcomes`.
// Contract: engine/contract/src/op/pack.rs
// Grid: y * x_groups + x = tokens * TEAM / 128; TEAM of a workgroup's 128 threads a token.
// Shared: 8 KiB of codes, 4 KiB of scales, 1 KiB for their extremes, and 1 KiB for the sums.
// Numerics: what is rounded to f16 or a code, or ranked, is summed in pairs of f32 and divided as IEEE 754 says, on every device alike.

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
@group(0) @binding(1) var<storage, read> z: array<f32>;
@group(0) @binding(2) var<storage, read> residual: array<f32>;
@group(0) @binding(3) var<storage, read> blocks: array<BlockDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> entries: array<u32>;
@group(0) @binding(6) var<storage, read> metric: array<f32>;
@group(0) @binding(7) var<storage, read> components: array<ComponentDesc>;
@group(0) @binding(8) var<storage, read> energy: array<f32>;
@group(0) @binding(9) var<storage, read_write> latents: array<u32>;
// [token]: the error as a pair, and the bits of the gain.
@group(0) @binding(10) var<storage, read_write> outcomes: array<vec4<f32>>;

// Threads of a token: fewer share the waits of a workgroup, of which each has little to do; a power of two from SEEKERS on.
override TEAM: u32 = 128u;

// Each token has its share of codes and scales.
const CODE_ROOM: u32 = 2048u;
const SCALE_ROOM: u32 = 512u;
var<workgroup> codes: array<atomic<u32>, CODE_ROOM>;
// Scale and minimum of each group.
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

// The code of a value, which it also restores.
fn code_of(value: f32, component: ComponentDesc, scale: vec2<f32>) -> vec2<f32> {
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

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let teams = WORKGROUP / TEAM;
    let team = thread / TEAM;
    let own = thread % TEAM;
    // All of the workgroup's tokens are in one block.
    let row = (group.y * params.x_groups + group.x) * teams + team;
    let lane = row % BLOCK;
    if row / BLOCK >= min(count[0], params.blocks) {
        return;
    }
    let coded = !is_reference(lane);
    // Threads of a reference have nothing to do but wait.
    let rank = select(0u, params.rank, coded);
    let code_words = select(0u, params.code_words, coded);
    let block = blocks[row / BLOCK];
    let record = record_base(block.blocks, block.index);
    let start = row * params.z_pitch;
    let first_code = team * (CODE_ROOM / teams);
    let first_scale = team * (SCALE_ROOM / teams);
    for (var word = own; word < code_words; word += TEAM) {
        atomicStore(&codes[first_code + word], 0u);
    }
    if params.rule == GAIN {
        let leading = min(params.rank, GAIN_LATENTS);
        var squares = vec2<f32>();
        for (var i = own; i < min(rank, leading); i += TEAM) {
            squares = double_add(squares, double_square(z[start + i]));
        }
        let gain = gain_of(double_total(squares, thread, TEAM), f32(leading));
        if own == 0u {
            scales[first_scale] = vec2<f32>(gain, 0.0);
        }
    } else if params.rule != PLAIN {
        for (var first = 0u; first < params.groups; first += TEAM / SEEKERS) {
            let sought = first + own / SEEKERS;
            let end = min((sought + 1u) * params.group, rank);
            var bounds = vec2<f32>(3.0e38, -3.0e38);
            for (var i = sought * params.group + own % SEEKERS; i < end; i += SEEKERS) {
                bounds = vec2<f32>(min(bounds.x, z[start + i]), max(bounds.y, z[start + i]));
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
        for (var word = own; word < params.scales / 2u; word += TEAM) {
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

    var error = vec2<f32>();
    for (var i = own; i < rank; i += TEAM) {
        let value = z[start + i];
        let component = components[i];
        var restored = 0.0;
        if component.bits > 0u {
            var code = 0u;
            if params.rule == PLAIN {
                code = half_bits(value);
                restored = unpack2x16float(code).x;
            } else {
                let found = code_of(value, component, scales[first_scale + i / params.group]);
                code = u32(found.x);
                restored = found.y;
            }
            let word = first_code + component.offset / 32u;
            let bit = component.offset % 32u;
            atomicOr(&codes[word], code << bit);
            if bit + component.bits > 32u {
                atomicOr(&codes[word + 1u], code >> (32u - bit));
            }
        }
        let weight = energy[i];
        error = double_add(error, double_scale(double_square(value - restored), weight));
        error = double_add(error, -double_scale(double_square(value), weight));
    }
    for (var column = own; coded && column < params.cols; column += TEAM) {
        let value = residual[row * params.cols + column];
        error = double_add(error, double_scale(double_square(value), metric[column]));
    }
    let total = double_total(error, thread, TEAM);
    for (var word = own; word < code_words; word += TEAM) {
        latents[record + params.codes_at + coded_index(lane) * params.code_words + word] = atomicLoad(&codes[first_code + word]);
    }
    if coded && own == 0u {
        let gain = select(0.0, scales[first_scale].x, params.rule == GAIN);
        outcomes[row] = vec4<f32>(total, bitcast<f32>(half_bits(gain)), 0.0);
    }
}
