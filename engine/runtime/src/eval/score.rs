//! Scores against dense attention, question by question.

use std::collections::BTreeMap;

use crate::random::SplitMix64;

/// The share of some texts that occur in an answer: each as a whole, with no letter or digit before or after it; case does not matter.
pub(super) fn found(answer: &str, expected: &[String]) -> f64 {
    let answer = answer.to_lowercase();
    let whole = |text: &str| {
        let text = text.to_lowercase();
        answer.match_indices(&text).any(|(at, _)| {
            let before = answer[..at].chars().next_back();
            let after = answer[at + text.len()..].chars().next();
            ![before, after]
                .into_iter()
                .flatten()
                .any(char::is_alphanumeric)
        })
    };
    let count = expected.iter().filter(|text| whole(text)).count();
    count as f64 / expected.len().max(1) as f64
}

/// Scores of the same questions under dense attention and under a policy, from 0 to 1 each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairedScores {
    contexts: Vec<Vec<Pair>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    depth: Option<u32>,
    dense: f64,
    policy: f64,
}

/// What [`PairedScores`] come to. Accuracies and their differences are in points: 100 where every answer is right.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreSummary {
    /// Contexts that questions were asked about.
    pub contexts: usize,
    /// Questions.
    pub questions: usize,
    /// The policy's accuracy.
    pub accuracy: f64,
    /// That of dense attention.
    pub dense: f64,
    /// The first less the second.
    pub difference: f64,
    /// Where 95 % of paired bootstrap samples have the difference. Contexts are drawn, with all their questions, since those are no independent
    /// trials; questions where there is one context only.
    pub interval: [f64; 2],
    /// Questions that dense attention answers in full and the policy does not.
    pub lost: usize,
    /// Questions that the policy answers in full and dense attention does not.
    pub gained: usize,
    /// McNemar's exact test: how likely it is that questions change sides at least as unevenly, if both were equally good. It takes questions
    /// for independent trials.
    pub p_value: f64,
    /// By depth, shallowest first; empty where questions have none.
    pub depths: Vec<DepthScore>,
}

/// Accuracy at one depth, in points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DepthScore {
    /// The depth, in tenths of the context.
    pub depth: u32,
    /// Questions.
    pub questions: usize,
    /// The policy's accuracy.
    pub accuracy: f64,
    /// That of dense attention.
    pub dense: f64,
}

const RESAMPLES: usize = 4000;

impl PairedScores {
    /// Adds the questions of one context: for each its depth, the score of dense attention and the policy's.
    pub fn add(&mut self, scores: impl IntoIterator<Item = (Option<u32>, f64, f64)>) {
        let pairs = scores.into_iter().map(|(depth, dense, policy)| Pair {
            depth,
            dense,
            policy,
        });
        self.contexts.push(pairs.collect());
    }

    /// The figures; `None` before the first question.
    pub fn summary(&self) -> Option<ScoreSummary> {
        let pairs: Vec<Pair> = self.contexts.iter().flatten().copied().collect();
        if pairs.is_empty() {
            return None;
        }
        let (accuracy, dense) = accuracies(&pairs);
        let changed = |from: fn(&Pair) -> f64, to: fn(&Pair) -> f64| {
            let changed = pairs
                .iter()
                .filter(|pair| from(pair) >= 1.0 && to(pair) < 1.0);
            changed.count()
        };
        let lost = changed(|pair| pair.dense, |pair| pair.policy);
        let gained = changed(|pair| pair.policy, |pair| pair.dense);
        let mut by_depth: BTreeMap<u32, Vec<Pair>> = BTreeMap::new();
        for pair in &pairs {
            if let Some(depth) = pair.depth {
                by_depth.entry(depth).or_default().push(*pair);
            }
        }
        let depths = by_depth.into_iter().map(|(depth, pairs)| {
            let (accuracy, dense) = accuracies(&pairs);
            DepthScore {
                depth,
                questions: pairs.len(),
                accuracy,
                dense,
            }
        });
        Some(ScoreSummary {
            contexts: self.contexts.len(),
            questions: pairs.len(),
            accuracy,
            dense,
            difference: accuracy - dense,
            interval: self.interval(),
            lost,
            gained,
            p_value: mcnemar(lost, gained),
            depths: depths.collect(),
        })
    }

    /// The percentile interval of the difference.
    fn interval(&self) -> [f64; 2] {
        // A difference summed over a unit that is drawn, and how many questions it has.
        let unit = |pairs: &[Pair]| {
            let sum: f64 = pairs.iter().map(|pair| pair.policy - pair.dense).sum();
            (sum, pairs.len() as f64)
        };
        let units: Vec<(f64, f64)> = match self.contexts.as_slice() {
            [only] => only.iter().map(|pair| unit(&[*pair])).collect(),
            many => many.iter().map(|pairs| unit(pairs)).collect(),
        };
        let mut random = SplitMix64::new(units.len() as u64);
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let drawn = (0..units.len()).map(|_| units[random.below(units.len())]);
                let (sum, count) =
                    drawn.fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
                100.0 * sum / f64::max(count, 1.0)
            })
            .collect();
        means.sort_unstable_by(f64::total_cmp);
        let last = (RESAMPLES - 1) as f64;
        [0.025, 0.975].map(|share| means[(share * last).round() as usize])
    }
}

/// The policy's mean and that of dense attention, in points.
fn accuracies(pairs: &[Pair]) -> (f64, f64) {
    let mean = |score: fn(&Pair) -> f64| {
        100.0 * pairs.iter().map(score).sum::<f64>() / pairs.len().max(1) as f64
    };
    (mean(|pair| pair.policy), mean(|pair| pair.dense))
}

/// Two-sided and exact: of `lost + gained` fair coins, at most as many on the rarer side, or as few on the other.
fn mcnemar(lost: usize, gained: usize) -> f64 {
    let (coins, rarer) = (lost + gained, lost.min(gained));
    // ln of a binomial coefficient over 2^coins, term after term.
    let mut term = -(coins as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for heads in 0..=rarer {
        tail += term.exp();
        term += ((coins - heads) as f64 / (heads + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_texts_count() {
        let found = |answer, expected: &[&str]| {
            let expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
            super::found(answer, &expected)
        };
        assert_eq!(found(" 1234567.", &["1234567"]), 1.0);
        assert_eq!(found("12345678", &["1234567"]), 0.0);
        assert_eq!(found("x1234567 1234567", &["1234567"]), 1.0);
        assert_eq!(found("AB, cd and EF", &["AB", "CD", "GH", "EF"]), 0.75);
        assert_eq!(found("", &["1"]), 0.0);
        assert_eq!(found("é1é", &["1"]), 0.0);
    }

    #[test]
    fn mcnemar_is_that_of_the_binomial() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert!((mcnemar(5, 0) - 0.0625).abs() < 1e-12);
        // 2 (1 + 10 + 45) / 1024
        assert!((mcnemar(2, 8) - 112.0 / 1024.0).abs() < 1e-12);
        assert_eq!(mcnemar(3, 3), 1.0);
        assert!(mcnemar(900, 1000) < 0.03 && mcnemar(900, 1000) > 0.015);
    }

    #[test]
    fn sums_are_in_points_and_by_depth() {
        let mut scores = PairedScores::default();
        assert_eq!(scores.summary(), None);
        scores.add([(Some(0), 1.0, 1.0), (Some(10), 1.0, 0.0)]);
        scores.add([(Some(0), 1.0, 1.0), (Some(10), 0.0, 1.0)]);
        let summary = scores.summary().expect("there are questions");
        assert_eq!((summary.contexts, summary.questions), (2, 4));
        assert_eq!(
            (summary.accuracy, summary.dense, summary.difference),
            (75.0, 75.0, 0.0)
        );
        assert_eq!((summary.lost, summary.gained), (1, 1));
        let depths: Vec<_> = summary
            .depths
            .iter()
            .map(|d| (d.depth, d.questions, d.accuracy, d.dense))
            .collect();
        assert_eq!(depths, [(0, 2, 100.0, 100.0), (10, 2, 50.0, 50.0)]);
        // A context with a loss, one with a gain: drawn twice, either gives the extremes.
        assert_eq!(summary.interval, [-50.0, 50.0]);
    }

    #[test]
    fn intervals_are_as_wide_as_theory_says() {
        // One question for each context; a tenth of 400 is lost: the error is 100 sqrt(0.1 * 0.9 / 400) = 1.5 points.
        let mut scores = PairedScores::default();
        (0..400).for_each(|index| scores.add([(None, 1.0, f64::from(u8::from(index % 10 != 0)))]));
        let summary = scores.summary().expect("there are questions");
        let [low, high] = summary.interval;
        assert!(
            (low + 12.94).abs() < 0.6 && (high + 7.06).abs() < 0.6,
            "{low} {high}"
        );
        assert!(summary.p_value < 1e-9 && summary.depths.is_empty());
        // The same questions, ten to a context that is either lost or not: the error is larger by the square root of ten.
        let mut clustered = PairedScores::default();
        (0..40).for_each(|index| {
            let score = f64::from(u8::from(index % 10 != 0));
            clustered.add((0..10).map(|_| (None, 1.0, score)));
        });
        let [low, high] = clustered.summary().expect("there are questions").interval;
        assert!(high - low > 15.0 && high - low < 22.0, "{low} {high}");
        let mut same = PairedScores::default();
        same.add([(None, 0.5, 0.5), (None, 0.0, 0.0)]);
        assert_eq!(
            same.summary().map(|s| (s.interval, s.p_value)),
            Some(([0.0, 0.0], 1.0))
        );
    }
}
