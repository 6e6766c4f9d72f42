// Arithmetic that gives the same on every device, for what is rounded further to a code or an f16, or ranked. Needs `params.zero`, which is 0.

// A number as it is, of which a compiler knows nothing: those that treat f32 as real numbers would find that what roundings lose is zero.
fn hidden(value: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(value) ^ params.zero);
}

// The upper 12 bits of a number. Products of two such are exact.
fn upper(value: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(value) & 0xfffff000u);
}

// a / b, rounded as IEEE 754 says, from the device's own division of 1 by b, which may be a few units off; for numbers far from the ends of the
// range of f32, and b other than 0.
fn quotient(a: f32, b: f32) -> f32 {
    let inverse = 1.0 / b;
    let near = hidden(a * inverse);
    let near_high = upper(near);
    let near_low = hidden(near - near_high);
    let b_high = upper(b);
    let b_low = hidden(b - b_high);
    // All products are exact.
    let rest = fma(-near_low, b_low, fma(-near_low, b_high, fma(-near_high, b_low, fma(-near_high, b_high, a))));
    return fma(rest, inverse, near);
}
