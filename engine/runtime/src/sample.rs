//! Choosing a token from logits.

use std::collections::VecDeque;

use crate::random::SplitMix64;

/// How tokens are chosen. Filters apply in the order of the fields; a temperature of zero is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logit of a token that is among the last `repeat_window` tokens where it is positive, multiplies it where it is negative;
    /// 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the latest tokens the penalty looks at.
    pub repeat_window: usize,
    /// Keeps the `top_k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens that holds this share of probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens that are at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides the logits after the filters; 0 is greedy.
    pub temperature: f32,
    /// Seeds the generator: the same seed, logits and parameters give the same tokens.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            repetition_penalty: 1.0,
            repeat_window: 64,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            temperature: 0.8,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// The most likely token each time; ties go to the lowest id.
    pub fn greedy() -> Self {
        SamplingParams {
            temperature: 0.0,
            ..Default::default()
        }
    }

    /// Whether all numbers are in range.
    ///
    /// # Errors
    /// What is out of range, by name.
    pub fn check(&self) -> Result<(), String> {
        let finite = |name: &str, value: f32, low: f32, high: f32| {
            if value.is_finite() && (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} is {value}, expected {low} to {high}"))
            }
        };
        finite("temperature", self.temperature, 0.0, 100.0)?;
        finite("top_p", self.top_p, 0.0, 1.0)?;
        finite("min_p", self.min_p, 0.0, 1.0)?;
        finite("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
    }
}

/// Chooses tokens for one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    random: SplitMix64,
    recent: VecDeque<u32>,
}

impl Sampler {
    /// A sampler that starts from the parameters' seed.
    pub fn new(params: SamplingParams) -> Self {
        Sampler {
            random: SplitMix64::new(params.seed),
            params,
            recent: VecDeque::new(),
        }
    }

    /// Makes a token count for the repetition penalty.
    pub fn accept(&mut self, token: u32) {
        self.recent.push_back(token);
        while self.recent.len() > self.params.repeat_window {
            self.recent.pop_front();
        }
    }

    /// Chooses from the logits of one position, one for each token; `None` when there is none that is a number. Does not
    /// [`accept`](Self::accept) it.
    pub fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        let mut penalised;
        let logits = if self.params.repetition_penalty == 1.0 || self.recent.is_empty() {
            logits
        } else {
            penalised = logits.to_vec();
            self.penalise(&mut penalised);
            &penalised
        };
        if self.params.temperature == 0.0 {
            return argmax(logits);
        }
        self.draw(logits)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let mut tokens: Vec<u32> = self.recent.iter().copied().collect();
        tokens.sort_unstable();
        tokens.dedup();
        for token in tokens {
            if let Some(logit) = logits.get_mut(token as usize) {
                let penalty = self.params.repetition_penalty;
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        let mut candidates: Vec<(u32, f32)> = logits
            .iter()
            .enumerate()
            .filter(|(_, l)| !l.is_nan())
            .map(|(id, &logit)| (id as u32, logit))
            .collect();
        let by_logit = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if self.params.top_k > 0 && self.params.top_k < candidates.len() {
            candidates.select_nth_unstable_by(self.params.top_k - 1, by_logit);
            candidates.truncate(self.params.top_k);
        }
        candidates.sort_unstable_by(by_logit);
        let largest = f64::from(candidates.first()?.1);
        let weight =
            |logit: f32, temperature: f64| ((f64::from(logit) - largest) / temperature).exp();

        let total: f64 = candidates.iter().map(|c| weight(c.1, 1.0)).sum();
        let (mut mass, mut keep) = (0.0, 0);
        for (_, logit) in &candidates {
            let p = weight(*logit, 1.0);
            // The most likely token always stays; a weight is relative to it, which is what min_p asks for.
            if keep > 0
                && (mass >= f64::from(self.params.top_p) * total
                    || p < f64::from(self.params.min_p))
            {
                break;
            }
            mass += p;
            keep += 1;
        }
        candidates.truncate(keep);

        let temperature = f64::from(self.params.temperature);
        let total: f64 = candidates.iter().map(|c| weight(c.1, temperature)).sum();
        let mut rest = self.random.uniform() * total;
        for (id, logit) in &candidates {
            rest -= weight(*logit, temperature);
            if rest < 0.0 {
                return Some(*id);
            }
        }
        candidates.last().map(|c| c.0)
    }
}

/// The index of the largest logit, the lowest where several are equal; `None` when none is a number.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if !logit.is_nan() && best.is_none_or(|(_, top)| logit > top) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(params: SamplingParams, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(params);
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.choose(logits).expect("there are logits") as usize] += 1;
        }
        counts
    }

    fn plain() -> SamplingParams {
        SamplingParams {
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            temperature: 1.0,
            ..Default::default()
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_skips_nan() {
        let mut sampler = Sampler::new(SamplingParams::greedy());
        assert_eq!(sampler.choose(&[f32::NAN, 2.0, 3.0, 3.0]), Some(2));
        assert_eq!(sampler.choose(&[f32::NAN]), None);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0, 3.0f32.ln(), f32::NEG_INFINITY];
        let counts = counts(plain(), &logits, 40_000);
        assert!(
            (counts[1] as f64 / 40_000.0 - 0.75).abs() < 0.01,
            "{counts:?}"
        );
        assert_eq!(counts[2], 0);
    }

    #[test]
    fn filters_remove_the_tail() {
        let logits = [4.0, 3.0, 2.0, 1.0];
        assert_eq!(
            counts(
                SamplingParams {
                    top_k: 2,
                    ..plain()
                },
                &logits,
                500
            )[2..],
            [0, 0]
        );
        // The first two hold 87 % of the probability.
        assert_eq!(
            counts(
                SamplingParams {
                    top_p: 0.8,
                    ..plain()
                },
                &logits,
                500
            )[2..],
            [0, 0]
        );
        // The third is exp(-2) = 13.5 % as likely as the first.
        assert_eq!(
            counts(
                SamplingParams {
                    min_p: 0.2,
                    ..plain()
                },
                &logits,
                500
            )[2..],
            [0, 0]
        );
        assert!(
            counts(
                SamplingParams {
                    min_p: 0.1,
                    ..plain()
                },
                &logits,
                500
            )[2] > 0
        );
    }

    #[test]
    fn seeds_repeat_and_differ() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32 * 0.1).collect();
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplingParams { seed, ..plain() });
            (0..20)
                .filter_map(|_| sampler.choose(&logits))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_penalty_moves_the_choice_off_recent_tokens() {
        let mut sampler = Sampler::new(SamplingParams {
            repetition_penalty: 2.0,
            ..SamplingParams::greedy()
        });
        assert_eq!(sampler.choose(&[3.0, 2.0]), Some(0));
        sampler.accept(0);
        assert_eq!(sampler.choose(&[3.0, 2.0]), Some(1));
    }
}
