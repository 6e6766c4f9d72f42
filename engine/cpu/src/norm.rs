//! Root-mean-square norms.

use rayon::prelude::*;

use crate::line::Floats;

/// `out = weight .* x / rms(x)` with `rms(x) = sqrt(mean(x^2) + epsilon)`, in f64.
pub(crate) fn normalise(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let inverse = inverse_rms(x, epsilon);
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = (f64::from(x) * inverse * f64::from(weight)) as f32;
    }
}

/// As [`normalise`], in place.
pub(crate) fn normalise_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) {
    let inverse = inverse_rms(x, epsilon);
    for (x, &weight) in x.iter_mut().zip(weight) {
        *x = (f64::from(*x) * inverse * f64::from(weight)) as f32;
    }
}

fn inverse_rms(x: &[f32], epsilon: f32) -> f64 {
    let (eights, rest) = x.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for eight in eights {
        for (sum, &x) in sums.iter_mut().zip(eight) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let mean = (sums.iter().sum::<f64>() + rest) / x.len() as f64;
    1.0 / (mean + f64::from(epsilon)).sqrt()
}

/// Rows `0..count`, as `source` gives them, each normalised; without padding.
pub(crate) fn normalised_rows<'a>(
    count: usize,
    source: impl Fn(usize) -> &'a [f32] + Send + Sync,
    weight: &[f32],
    epsilon: f32,
) -> Floats {
    let width = weight.len();
    let mut all = Floats::zeros(count * width);
    all.par_chunks_exact_mut(width.max(1))
        .with_min_len(16)
        .enumerate()
        .for_each(|(row, out)| normalise(source(row), weight, epsilon, out));
    all
}
