// Weights as f16, for matrix units. `row` is the index of a row's first 16 bytes.
//:import part/half8
@group(0) @binding(1) var<storage, read> weight: array<vec4<f16>>;

// What is fetched of an octet ahead of its use.
alias Fetched = Half8;

fn fetch_octet(row: u32, octet: u32) -> Fetched {
    let at = 2u * (row + octet);
    return Half8(weight[at], weight[at + 1u]);
}

// The octet, once it has arrived.
fn make_octet(fetched: Fetched, octet: u32) -> Half8 {
    return fetched;
}
