// Eight neighbouring weights as matrix units take them.
struct Half8 {
    low: vec4<f16>,
    high: vec4<f16>,
}
