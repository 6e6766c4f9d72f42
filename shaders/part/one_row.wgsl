// Products of MATRICES weights and one row, which the workgroup stages a segment at a time. Needs the parts `codes_*`, `input_*` and `crew_*`,
// of `params` outputs, chunks, weight_pitch, quads and segments, and of the kernel, for output i < MOST of a team in product m, `team_row`,
// `fetch_m_i` and OUTPUTS, how many there are.

// Quads of a segment.
const SEGMENT: u32 = 512u;
// Chunks of a segment.
const CHUNKS: u32 = SEGMENT / (2u * OCTETS);

// A quad of the input, and its squares, where they matter.
struct Input {
    value: vec4<f32>,
    squares: f32,
}

var<workgroup> input: array<vec4<f32>, SEGMENT>;

// Where a quad lies in `input`: threads read quads 2, 4 or 8 apart at a time, and find them in different banks.
fn input_place(quad: u32) -> u32 {
    return quad ^ ((quad >> 3u) & 7u);
}

// Stages a segment, and returns the squares of what the thread staged. All threads of the workgroup call this.
fn stage(segment: u32, lane: Lane) -> f32 {
    let first = segment * SEGMENT;
    let quads = min(params.quads - first, SEGMENT);
    var squares = 0.0;
    workgroupBarrier();
    for (var quad = lane.thread; quad < quads; quad += WORKGROUP) {
        let staged = input_quad(first + quad);
        input[input_place(quad)] = staged.value;
        stage_sum(quad, staged.value);
        squares += staged.squares;
    }
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
    for (var segment = 0u; segment < params.segments; segment++) {
        let first = segment * CHUNKS;
        let chunks = min(params.chunks - first, CHUNKS);
        var at = team_thread(lane);
        // The first loads are under way while the segment is staged, and all of a step's before its products.
        //:repeat u = 0..UNROLL
        let place$(u) = first + min(at + $(u)u * threads, chunks - 1u);
        //:repeat i = 0..MOST
        var chunk$(u)_$(i): Chunk;
        if OUTPUTS > $(i)u {
            chunk$(u)_$(i) = fetch_$(m)_$(i)(row$(i), place$(u));
        }
        //:end
        //:end
        squares += stage(segment, lane);
        if segment + 1u == params.segments {
            // Here, other threads have products to do while some wait.
            factor = input_factor(squares, lane);
        }
        while at < chunks {
            //:repeat u = 0..UNROLL
            if at + $(u)u * threads < chunks {
                let chunk = at + $(u)u * threads;
                //:repeat i = 0..MOST
                var codes$(i) = 0.0;
                //:end
                //:repeat o = 0..OCTETS
                {
                    let quad = 2u * (chunk * OCTETS + $(o)u);
                    let low = input[input_place(quad)];
                    let high = input[input_place(quad + 1u)];
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
            at += UNROLL * threads;
            if at < chunks {
                //:repeat u = 0..UNROLL
                let next$(u) = first + min(at + $(u)u * threads, chunks - 1u);
                //:repeat i = 0..MOST
                if OUTPUTS > $(i)u {
                    chunk$(u)_$(i) = fetch_$(m)_$(i)(row$(i), next$(u));
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
