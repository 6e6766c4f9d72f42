// Products of MATRICES weights and one row, which the workgroup stages a segment at a time. Needs the parts `codes_*`, `input_*` and `crew_*`,
// of `params` outputs, chunks, weight_pitch, quads and segments, and of the kernel, for output i < MOST of a team in product m, `team_row`,
// `fetch_m_i` and OUTPUTS, how many there are. Where AHEAD says so, a step and the input of a segment are loaded before the products of the one before:
// more loads under way, and more registers, which codes cannot spare.

// Chunks that a thread loads at once of each output: 1, 2 or 4.
override UNROLL: u32 = 1u;
//:let LOADS = 4

// Quads of a segment.
const SEGMENT: u32 = 512u;
// Chunks of a segment.
const CHUNKS: u32 = SEGMENT / (2u * OCTETS);

// A quad of the input, and its squares, where they matter.
struct Input {
    value: vec4<f32>,
    squares: f32,
}

// Quads of a chunk.
const QUADS: u32 = 2u * OCTETS;
// From one quad of a chunk to its next in `input`: one more than there are chunks, so that neither threads that write neighbouring quads nor those
// that read the same quad of neighbouring chunks meet in a bank.
const PITCH: u32 = CHUNKS + 1u;

// Quad q of chunk c, at `q * PITCH + c`.
var<workgroup> input: array<vec4<f32>, QUADS * PITCH>;

// What a thread stages of a segment: two quads. Beyond the row's end it loads the last.
struct Staged {
    first: Input,
    second: Input,
}

fn load_segment(segment: u32, lane: Lane) -> Staged {
    let quad = segment * SEGMENT + lane.thread;
    let last = params.quads - 1u;
    return Staged(input_quad(min(quad, last)), input_quad(min(quad + WORKGROUP, last)));
}

fn stage_quad(segment: u32, quad: u32, staged: Input) -> f32 {
    if segment * SEGMENT + quad >= params.quads {
        return 0.0;
    }
    input[quad % QUADS * PITCH + quad / QUADS] = staged.value;
    stage_sum(quad, staged.value);
    return staged.squares;
}

// Stages a segment, and returns the squares of what the thread staged. All threads of the workgroup call this.
fn stage(segment: u32, staged: Staged, lane: Lane) -> f32 {
    workgroupBarrier();
    var squares = stage_quad(segment, lane.thread, staged.first);
    squares += stage_quad(segment, lane.thread + WORKGROUP, staged.second);
    workgroupBarrier();
    return squares;
}

//:repeat m = 0..PRODUCTS
// Outputs from `output` on, in all threads of the team. Beyond the last, they repeat it. All threads of the workgroup call this.
fn product$(m)(output: u32, outputs: u32, lane: Lane) -> vec4<f32> {
    //:repeat i = 0..MOST
    let row$(i) = min(team_row(output, $(i)u), outputs - 1u) * params.weight_pitch;
    var sum$(i) = 0.0;
    //:end
    var squares = 0.0;
    var factor = 1.0;
    let threads = team_threads(lane);
    // The first loads are under way while the segment is staged.
    var staged: Staged;
    if AHEAD {
        staged = load_segment(0u, lane);
    }
    //:repeat u = 0..LOADS
    let start$(u) = min(team_thread(lane) + $(u)u * threads, params.chunks - 1u);
    //:repeat i = 0..MOST
    var next$(u)_$(i): Chunk;
    if UNROLL > $(u)u && OUTPUTS > $(i)u {
        next$(u)_$(i) = fetch_$(m)_$(i)(row$(i), start$(u));
    }
    //:end
    //:end
    for (var segment = 0u; segment < params.segments; segment++) {
        let first = segment * CHUNKS;
        let chunks = min(params.chunks - first, CHUNKS);
        if !AHEAD {
            staged = load_segment(segment, lane);
        }
        squares += stage(segment, staged, lane);
        if AHEAD && segment + 1u < params.segments {
            staged = load_segment(segment + 1u, lane);
        }
        if segment + 1u == params.segments {
            // Here, other threads have products to do while some wait.
            factor = input_factor(squares, lane);
        }
        for (var at = team_thread(lane); at < chunks; at += UNROLL * threads) {
            //:repeat u = 0..LOADS
            //:repeat i = 0..MOST
            let chunk$(u)_$(i) = next$(u)_$(i);
            //:end
            //:end
            // The next step's place, in this segment or in the next.
            let here = at + UNROLL * threads < chunks;
            let following = select(first + CHUNKS + team_thread(lane), first + at + UNROLL * threads, here);
            let last = select(params.chunks, first + chunks, here) - 1u;
            if AHEAD && following < params.chunks {
                //:repeat u = 0..LOADS
                let place$(u) = min(following + $(u)u * threads, last);
                //:repeat i = 0..MOST
                if UNROLL > $(u)u && OUTPUTS > $(i)u {
                    next$(u)_$(i) = fetch_$(m)_$(i)(row$(i), place$(u));
                }
                //:end
                //:end
            }
            //:repeat u = 0..LOADS
            if UNROLL > $(u)u && at + $(u)u * threads < chunks {
                let chunk = at + $(u)u * threads;
                //:repeat i = 0..MOST
                var codes$(i) = 0.0;
                //:end
                //:repeat o = 0..OCTETS
                {
                    let low = input[chunk + 2u * $(o)u * PITCH];
                    let high = input[chunk + (2u * $(o)u + 1u) * PITCH];
                    //:repeat i = 0..MOST
                    if OUTPUTS > $(i)u {
                        let octet = code_octet(chunk$(u)_$(i).codes, $(o)u);
                        codes$(i) += dot(octet.low, low) + dot(octet.high, high);
                    }
                    //:end
                }
                //:end
                let inputs = chunk_inputs(chunk);
                //:repeat i = 0..MOST
                if OUTPUTS > $(i)u {
                    sum$(i) += scaled(codes$(i), chunk$(u)_$(i).scale, inputs);
                }
                //:end
            }
            //:end
            if !AHEAD && following < params.chunks {
                //:repeat u = 0..LOADS
                let place$(u) = min(following + $(u)u * threads, last);
                //:repeat i = 0..MOST
                if UNROLL > $(u)u && OUTPUTS > $(i)u {
                    next$(u)_$(i) = fetch_$(m)_$(i)(row$(i), place$(u));
                }
                //:end
                //:end
            }
        }
    }
    var sums = vec4<f32>();
    //:repeat i = 0..MOST
    sums[$(i)] = sum$(i);
    //:end
    return factor * team_add4(sums, lane);
}
//:end
