// Stores numbers as f16, which matrix units take; those beyond its range become its largest. Needs `out` and `params.apart`.
//:import part/math

fn put(quad: u32, value: vec4<f32>) {
    let larger = vec2<u32>(half_pair(value.x, value.y), half_pair(value.z, value.w));
    out[quad] = larger;
    if params.apart != 0u {
        let rest = SMALLER * (value - vec4<f32>(unpack2x16float(larger.x), unpack2x16float(larger.y)));
        out[quad + params.apart] = vec2<u32>(half_pair(rest.x, rest.y), half_pair(rest.z, rest.w));
    }
}
