//! Divergence of the next-token distribution, and perplexity: teacher-forced, position by position.

use std::ops::Range;

use crate::error::Error;
use crate::sample::argmax;

/// Differences of one policy from dense attention, position by position, teacher-forced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Kullback-Leibler divergence of the policy's distribution from the dense one, in nats.
    divergences: Vec<f64>,
    /// Positions at which both prefer the same token.
    agreements: usize,
    /// Negative log-likelihood of the token that follows: dense, and by the policy.
    losses: Vec<(f64, f64)>,
}

/// What a [`Comparison`] comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ComparisonSummary {
    /// Positions that were compared.
    pub tokens: usize,
    /// Mean divergence, in nats.
    pub kld_mean: f64,
    /// Median divergence.
    pub kld_median: f64,
    /// The divergence that 99 % of positions do not exceed.
    pub kld_p99: f64,
    /// The largest divergence.
    pub kld_max: f64,
    /// Share of positions at which both prefer the same token.
    pub top1: f64,
    /// Perplexity of the text under the policy.
    pub ppl: f64,
    /// Perplexity of the text under dense attention.
    pub ppl_dense: f64,
    /// `ln(ppl / ppl_dense)`: the mean difference of losses.
    pub loss_difference: f64,
    /// Standard error of that mean, paired by position.
    pub loss_difference_error: f64,
}

impl Comparison {
    /// Adds one position: its logits under dense attention and under the policy, and the token that follows in the text.
    ///
    /// # Errors
    /// The logits differ in number, hold what is no number, or have none for the token.
    pub fn add(&mut self, dense: &[f32], policy: &[f32], next: u32) -> Result<(), Error> {
        let broken = |why: &str| Error::Parameter(format!("a comparison of logits: {why}"));
        if dense.len() != policy.len() || next as usize >= dense.len() {
            return Err(broken("there are too few of them"));
        }
        let p = log_softmax(dense);
        let q = log_softmax(policy);
        let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        if !divergence.is_finite() {
            return Err(broken("they are not all finite"));
        }
        // Rounding may leave it a hair below zero.
        self.divergences.push(divergence.max(0.0));
        self.agreements += usize::from(argmax(dense) == argmax(policy));
        self.losses.push((-p[next as usize], -q[next as usize]));
        Ok(())
    }

    /// The figures; `None` before the first position.
    pub fn summary(&self) -> Option<ComparisonSummary> {
        let tokens = self.divergences.len();
        let mut sorted = self.divergences.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        // The smallest value that at least this share of all does not exceed.
        let quantile = |share: f64| {
            let rank = (share * tokens as f64).ceil() as usize;
            sorted.get(rank.clamp(1, tokens.max(1)) - 1).copied()
        };
        let count = tokens as f64;
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / count;
        let difference = mean(&mut self.losses.iter().map(|(dense, policy)| policy - dense));
        let squares = self
            .losses
            .iter()
            .map(|(dense, policy)| (policy - dense - difference).powi(2));
        let variance = squares.sum::<f64>() / (count - 1.0).max(1.0);
        Some(ComparisonSummary {
            tokens,
            kld_mean: mean(&mut self.divergences.iter().copied()),
            kld_median: quantile(0.5)?,
            kld_p99: quantile(0.99)?,
            kld_max: quantile(1.0)?,
            top1: self.agreements as f64 / count,
            ppl: mean(&mut self.losses.iter().map(|loss| loss.1)).exp(),
            ppl_dense: mean(&mut self.losses.iter().map(|loss| loss.0)).exp(),
            loss_difference: difference,
            loss_difference_error: (variance / count).sqrt(),
        })
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let shifted = |logit: &f32| f64::from(*logit) - f64::from(largest);
    let total: f64 = logits.iter().map(|logit| shifted(logit).exp()).sum();
    let log_total = total.ln();
    logits
        .iter()
        .map(|logit| shifted(logit) - log_total)
        .collect()
}

/// Stretches of `length` tokens of a text of `tokens`, spread evenly over it from a beginning that `seed` shifts. They overlap only where the
/// text is shorter than all of them together.
///
/// # Errors
/// The text is shorter than one stretch, or none is asked for.
pub fn windows(
    tokens: usize,
    length: usize,
    samples: usize,
    seed: u64,
) -> Result<Vec<Range<usize>>, Error> {
    if tokens < length || samples == 0 {
        return Err(Error::Parameter(format!(
            "the text has {tokens} tokens, expected at least {length} for one window, and at least one window"
        )));
    }
    // What is left between windows that lie side by side; where they overlap, between their beginnings.
    let side_by_side = samples.checked_mul(length).filter(|all| *all <= tokens);
    let (least, slack) = match side_by_side {
        Some(all) => (length, tokens - all),
        None => (0, tokens - length),
    };
    let shift = (seed % (slack / samples + 1) as u64) as usize;
    let start = |index: usize| index * least + index * slack / samples + shift;
    Ok((0..samples)
        .map(|index| start(index)..start(index) + length)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_distributions() {
        let mut comparison = Comparison::default();
        // 1/4, 3/4 against 1/2, 1/2.
        let (dense, policy) = ([0.0, 3.0f32.ln()], [5.0, 5.0]);
        comparison.add(&dense, &policy, 1).expect("it is valid");
        let expected = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        let summary = comparison.summary().expect("there is a position");
        assert!((summary.kld_mean - expected).abs() < 1e-7, "{summary:?}");
        assert_eq!((summary.tokens, summary.top1), (1, 0.0));
        assert!((summary.ppl_dense - 4.0 / 3.0).abs() < 1e-6 && (summary.ppl - 2.0).abs() < 1e-6);
        comparison.add(&dense, &dense, 0).expect("it is valid");
        let summary = comparison.summary().expect("there are positions");
        assert_eq!((summary.kld_median, summary.top1), (0.0, 0.5));
        assert!((summary.kld_p99 - expected).abs() < 1e-7, "{summary:?}");
    }

    #[test]
    fn errors_are_paired() {
        let mut comparison = Comparison::default();
        // The losses differ from position to position, their difference does not.
        for step in 1..10 {
            let loss = f64::from(step) * 0.2;
            let logits = |loss: f64| [0.0, (-loss - (1.0 - (-loss).exp()).ln()) as f32];
            comparison
                .add(&logits(loss), &logits(loss - 0.1), 1)
                .expect("it is valid");
        }
        let summary = comparison.summary().expect("there are positions");
        assert!((summary.loss_difference + 0.1).abs() < 1e-5, "{summary:?}");
        let unpaired = comparison.losses.iter().map(|loss| loss.0);
        assert!(unpaired.fold(0.0, f64::max) > 1.0, "{summary:?}");
        assert!(
            summary.loss_difference_error < 1e-6,
            "the same difference each time has no error"
        );
        assert!(((summary.ppl / summary.ppl_dense).ln() - summary.loss_difference).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let mut comparison = Comparison::default();
        assert!(comparison.add(&[0.0], &[0.0, 1.0], 0).is_err());
        assert!(comparison.add(&[0.0], &[0.0], 1).is_err());
        assert!(comparison.add(&[f32::NAN, 0.0], &[0.0, 0.0], 0).is_err());
        assert_eq!(comparison.summary(), None);
    }

    #[test]
    fn windows_are_spread_and_within_the_text() {
        let found = windows(1000, 100, 3, 7).expect("there is room");
        assert_eq!(found, [7..107, 340..440, 673..773]);
        for (samples, seed) in [(1, 0), (5, 99), (9, 1), (10, 7), (50, 3), (5000, 1)] {
            let found = windows(1000, 100, samples, seed).expect("there is room");
            assert_eq!(found.len(), samples);
            assert!(
                found
                    .iter()
                    .all(|range| range.end <= 1000 && range.len() == 100)
            );
            let apart = found.windows(2).all(|pair| pair[0].end <= pair[1].start);
            assert_eq!(apart, samples <= 10, "{samples} windows");
        }
        assert!(windows(99, 100, 1, 0).is_err());
        assert!(windows(100, 100, 0, 0).is_err());
    }
}
