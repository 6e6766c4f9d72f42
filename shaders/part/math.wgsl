// Scalar functions without infinities.

// Stands for 'no score': far below every score, and finite in every difference.
const MASKED: f32 = -1.0e30;
// Of numbers in two parts of f16, the smaller ones are stored that much larger: as large as the others, so that f16 holds as much of them.
const SMALLER: f32 = 2048.0;

// v / (1 + exp(-v)), with the exponential kept finite.
fn silu(v: vec4<f32>) -> vec4<f32> {
    return v / (1.0 + exp(min(-v, vec4<f32>(80.0))));
}

// The f16 nearest to a number, ties to even, in the low 16 bits. Beyond the range of f16 it is the largest finite f16. Written out since
// devices differ in how `pack2x16float` rounds, and the cache must not.
fn half_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = min(bits & 0x7fffffffu, 0x477fe000u);
    let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u);
    let normal = (rounded - 0x38000000u) >> 13u;
    let subnormal = u32(round(bitcast<f32>(magnitude) * 16777216.0));
    return sign | select(subnormal, normal, magnitude >= 0x38800000u);
}

// Two numbers as a word of f16, the first in the low half.
fn half_pair(low: f32, high: f32) -> u32 {
    return half_bits(low) | (half_bits(high) << 16u);
}
