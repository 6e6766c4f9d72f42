// Rows that groups of threads attend to without barriers. Needs of `params` first_slot and slots.
//:import part/window

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> rows: array<RowDesc>;
@group(0) @binding(4) var<storage, read> count: array<u32>;
@group(0) @binding(5) var<storage, read> views: array<ViewDesc>;
@group(0) @binding(6) var<storage, read> entries: array<u32>;

// Threads that share a token: a power of two, from 4 to 32, that every subgroup holds; and octets of a head that each of them takes.
override LANES: u32 = 16u;
override PIECES: u32 = 1u;

struct Lane {
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) within: u32,
    @builtin(subgroup_size) size: u32,
}

// The place of a token's row in the window, or ABSENT.
fn token_place(view: ViewDesc, token: u32, end: u32) -> u32 {
    let place = local_slot(view, min(token, end - 1u));
    return select(ABSENT, place, token < end);
}
