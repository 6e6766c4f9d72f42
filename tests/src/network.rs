//! Networks of codecs in f64, from their definitions.

use longwave_contract::op::Activation;

/// The error function: its Taylor series near zero, and the continued fraction of its complement beyond.
pub fn erf(x: f64) -> f64 {
    if x < 0.0 {
        return -erf(-x);
    }
    let scale = std::f64::consts::FRAC_2_SQRT_PI;
    if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return scale * sum;
    }
    let fraction = (1..60)
        .rev()
        .fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    1.0 - scale / 2.0 * (-x * x).exp() / fraction
}

/// `f(v)`.
pub fn activated(activation: Activation, v: &[f64]) -> Vec<f64> {
    match activation {
        Activation::Gelu => {
            let root = std::f64::consts::SQRT_2;
            v.iter().map(|v| v / 2.0 * (1.0 + erf(v / root))).collect()
        }
        Activation::SwiGlu => {
            let (gate, linear) = v.split_at(v.len() / 2);
            let pairs = gate.iter().zip(linear);
            pairs
                .map(|(gate, linear)| gate / (1.0 + (-gate).exp()) * linear)
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn the_error_function_is_that_of_tables() {
        // Abramowitz and Stegun, table 7.1, and 1 - erfc(3.5) by its own table.
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (2.999_999, 0.999_977_909_4),
            (3.000_001, 0.999_977_909_6),
            (3.5, 0.999_999_256_9),
        ] {
            assert!((erf(x) - expected).abs() < 2e-10, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }
}
