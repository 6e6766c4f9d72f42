// What: out = the row of a raw token, reference or escape, and z = 0; or else the mean of its references plus an offset, and z = its latents.
// Contract: engine/contract/src/op/unpack.rs
// Grid: y * x_groups + x = rows; a workgroup a row.
// Shared: 64 bytes for where the row's references lie.
// Numerics: f32, the references' sum in their order.

const WORKGROUP: u32 = 256u;
//:import part/exact_load
//:import part/restored

// Rules of scales.
const PLAIN: u32 = 0u;
const GAIN: u32 = 1u;
const MIN_MAX: u32 = 3u;

struct Params {
    rows: u32,
    // Workgroups along x.
    x_groups: u32,
    // Rows from one sequence to the next, and the first row.
    pitch: u32,
    first: u32,
    naming: u32,
    tokens_pitch: u32,
    // Whether `mean` has a second row, an offset of coded tokens.
    has_offset: u32,
    // Whether latents are stored apart, and elements of a row of them.
    has_z: u32,
    z_pitch: u32,
    neighbours: u32,
    // The shape of blocks; a group takes in all latents where scales have none.
    cols: u32,
    rank: u32,
    group: u32,
    rule: u32,
    words: u32,
    stride: u32,
    references: u32,
    exact_words: u32,
    exact_f16: u32,
    ordinals_at: u32,
    ordinal_words: u32,
    scales: u32,
    scales_at: u32,
    code_words: u32,
    codes_at: u32,
    escapes_at: u32,
    escapes: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> stores: array<StoreDesc>;
@group(0) @binding(3) var<storage, read> entries: array<u32>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> raw: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> mean: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> components: array<ComponentDesc>;
@group(0) @binding(8) var<storage, read> latents: array<u32>;
@group(0) @binding(9) var<storage, read_write> z: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<vec4<f32>>;

// Kinds of sources.
const NONE: u32 = 0u;
const RAW: u32 = 1u;
const EXACT: u32 = 2u;

// What a base is the mean of: a kind, and a slot or first word.
var<workgroup> sources: array<vec2<u32>, 8>;

// The raw slot of token `i` of the pages from entry `pages` on.
fn raw_slot(pages: u32, i: u32) -> u32 {
    return entry_index(entries[pages + i / PAGE]) * PAGE + i % PAGE;
}

fn source_quad(source: vec2<u32>, quad: u32) -> vec4<f32> {
    if source.x == RAW {
        let words = raw[source.y * (params.cols / 4u) + quad];
        return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
    }
    if source.x == EXACT {
        return exact_quad(source.y, quad);
    }
    return vec4<f32>();
}

// Half `index` of the scales of the block that begins at word `record`.
fn scale_half(record: u32, index: u32) -> f32 {
    let pair = unpack2x16float(latents[record + params.scales_at + index / 2u]);
    return select(pair.x, pair.y, (index & 1u) != 0u);
}

// Latent `i` of a coded token, the `coded`th of the block that begins at word `record`.
fn latent(record: u32, coded: u32, i: u32) -> f32 {
    let component = components[i];
    if component.bits == 0u {
        return 0.0;
    }
    let word = record + params.codes_at + coded * params.code_words + component.offset / 32u;
    let bit = component.offset % 32u;
    var code = latents[word] >> bit;
    if bit + component.bits > 32u {
        code |= latents[word + 1u] << (32u - bit);
    }
    code &= (1u << component.bits) - 1u;
    if params.rule == PLAIN {
        return unpack2x16float(code).x;
    }
    let first = coded * params.scales;
    let group = i / params.group;
    var minimum = 0.0;
    var scale: f32;
    if params.rule == MIN_MAX {
        scale = scale_half(record, first + 2u * group);
        minimum = scale_half(record, first + 2u * group + 1u);
    } else {
        scale = scale_half(record, first + group);
    }
    return scale * (component.step * (f32(code) - component.zero)) + minimum;
}

// The kind of source that a row is as it is, and its slot or first word; where it is none, the block's first word and the lane.
fn row_source(store: StoreDesc, position: u32) -> vec4<u32> {
    if position < store.sinks {
        return vec4<u32>(RAW, raw_slot(store.pages, position), 0u, 0u);
    }
    let after = position - store.sinks;
    if after >= store.compressed {
        let tail = store.pages + (store.sinks + PAGE - 1u) / PAGE;
        return vec4<u32>(RAW, raw_slot(tail, after - store.compressed), 0u, 0u);
    }
    let record = record_base(store.blocks, after / BLOCK);
    let lane = after % BLOCK;
    if is_reference(lane) {
        return vec4<u32>(EXACT, record + lane / params.stride * params.exact_words, 0u, 0u);
    }
    let escapes = record + params.escapes_at;
    for (var i = 0u; i < params.escapes; i++) {
        if latents[escapes + i] == lane {
            return vec4<u32>(EXACT, escapes + params.escapes + i * params.exact_words, 0u, 0u);
        }
    }
    return vec4<u32>(NONE, 0u, record, lane);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.y * params.x_groups + group.x;
    if row >= min(count[0], params.rows) {
        return;
    }
    let quads = params.cols / 4u;
    let position = row_position(row);
    var source = vec4<u32>();
    if position != ABSENT {
        source = row_source(stores[row_store(row)], position);
    }
    if position == ABSENT || source.x != NONE {
        for (var quad = thread; quad < quads; quad += WORKGROUP) {
            out[row * quads + quad] = source_quad(source.xy, quad);
        }
        if params.has_z != 0u {
            for (var i = thread; i < params.rank; i += WORKGROUP) {
                z[row * params.z_pitch + i] = 0.0;
            }
        }
        return;
    }
    let store = stores[row_store(row)];
    let record = source.z;
    if thread < params.neighbours {
        let found = ordinal(record, source.w, thread);
        if found < store.sinks {
            sources[thread] = vec2<u32>(RAW, raw_slot(store.pages, found));
        } else {
            sources[thread] = vec2<u32>(EXACT, reference_base(store.blocks, found - store.sinks));
        }
    }
    workgroupBarrier();
    let coded = coded_index(source.w);
    let share = 1.0 / f32(max(params.neighbours, 1u));
    for (var quad = thread; quad < quads; quad += WORKGROUP) {
        var base = vec4<f32>();
        for (var i = 0u; i < params.neighbours; i++) {
            base += source_quad(sources[i], quad);
        }
        base *= share;
        if params.neighbours == 0u {
            base = mean[quad];
        }
        if params.has_offset != 0u {
            base += mean[quads + quad];
        }
        if params.has_z == 0u {
            //:repeat c = 0..4
            base[$(c)] += latent(record, coded, 4u * quad + $(c)u);
            //:end
        }
        out[row * quads + quad] = base;
    }
    if params.has_z != 0u {
        for (var i = thread; i < params.rank; i += WORKGROUP) {
            z[row * params.z_pitch + i] = latent(record, coded, i);
        }
    }
}
