// Sums of about 35 bits as a pair of f32, large part first, for what is rounded or ranked further. Needs `WORKGROUP`.
//:import part/precise

var<workgroup> double_parts: array<vec2<f32>, WORKGROUP>;

fn double_add(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    let sum = hidden(a.x + b.x);
    let from_b = hidden(sum - a.x);
    let lost = (a.x - (sum - from_b)) + (b.x - from_b);
    return vec2<f32>(sum, a.y + b.y + lost);
}

fn double_square(value: f32) -> vec2<f32> {
    let high = upper(value);
    let low = value - high;
    return vec2<f32>(high * high, low * (value + high));
}

fn double_scale(a: vec2<f32>, factor: f32) -> vec2<f32> {
    let high = upper(a.x);
    let low = a.x - high;
    let factor_high = upper(factor);
    let factor_low = factor - factor_high;
    return vec2<f32>(high * factor_high, high * factor_low + low * factor_high + low * factor_low + a.y * factor);
}

// A number in two parts, of which products with upper parts are exact, and itself.
fn split(value: f32) -> vec3<f32> {
    let high = upper(value);
    return vec3<f32>(high, value - high, value);
}

// `double_scale` by a factor that was split.
fn double_weighed(a: vec2<f32>, factor: vec3<f32>) -> vec2<f32> {
    let high = upper(a.x);
    let low = (a.x - high) + a.y;
    return vec2<f32>(high * factor.x, fma(high, factor.y, low * factor.z));
}

// The pair whose large part is the sum rounded, so that pairs are ordered as their parts are in turn.
fn double_settle(a: vec2<f32>) -> vec2<f32> {
    let sum = hidden(a.x + a.y);
    return vec2<f32>(sum, a.y - (sum - a.x));
}

// The sums over teams of `team` threads that follow one another, a power of two. All threads of the workgroup call it, and each gets its team's.
fn double_total(value: vec2<f32>, thread: u32, team: u32) -> vec2<f32> {
    // All have read the last total.
    workgroupBarrier();
    double_parts[thread] = value;
    workgroupBarrier();
    for (var apart = team / 2u; apart > 0u; apart /= 2u) {
        if thread % team < apart {
            double_parts[thread] = double_add(double_parts[thread], double_parts[thread + apart]);
        }
        workgroupBarrier();
    }
    return double_settle(double_parts[thread - thread % team]);
}
