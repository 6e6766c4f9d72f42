//! Choosing a token on the host, for requests that change logits or ask how likely tokens were.

use std::collections::HashMap;

use super::request::{Generate, Logprobs};
use crate::sample::Sampler;

impl Generate {
    /// Whether tokens are chosen on the host, which takes all logits.
    pub(super) fn needs_logits(&self) -> bool {
        self.logprobs.is_some()
            || !self.bias.is_empty()
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || self.constraint.is_some()
    }

    /// Chooses a token; `counts` says how often tokens were generated before. `None` where none is left to choose from.
    ///
    /// # Errors
    /// What the constraint says.
    pub(super) fn choose(
        &mut self,
        sampler: &mut Sampler,
        mut logits: Vec<f32>,
        counts: &HashMap<u32, u32>,
    ) -> Result<Option<(u32, Option<Logprobs>)>, String> {
        let likely = self.logprobs.map(|most| Likely::new(&logits, most));
        for &(token, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        if self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 {
            for (&token, &count) in counts {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit -= self.presence_penalty + self.frequency_penalty * count as f32;
                }
            }
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(&mut logits)?;
            // What is no number is never chosen, whatever the filters.
            for logit in &mut logits {
                if *logit == f32::NEG_INFINITY {
                    *logit = f32::NAN;
                }
            }
        }
        let token = sampler.sampling().choose(&logits);
        Ok(token.map(|token| (token, likely.map(|likely| likely.of(token)))))
    }
}

/// The logarithms of a row's probabilities.
struct Likely {
    /// What is taken from a logit.
    total: f32,
    top: Vec<(u32, f32)>,
    logits: Vec<f32>,
}

impl Likely {
    fn new(logits: &[f32], most: usize) -> Self {
        let numbers = || logits.iter().copied().filter(|logit| !logit.is_nan());
        let largest = numbers().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = numbers()
            .map(|logit| f64::from(logit - largest).exp())
            .sum();
        let total = largest + sum.ln() as f32;
        let mut order: Vec<u32> = (0..logits.len() as u32)
            .filter(|&token| !logits[token as usize].is_nan())
            .collect();
        let falling = |a: &u32, b: &u32| {
            let (left, right) = (logits[*a as usize], logits[*b as usize]);
            right.total_cmp(&left).then(a.cmp(b))
        };
        let most = most.min(order.len());
        if most > 0 && most < order.len() {
            order.select_nth_unstable_by(most - 1, falling);
        }
        order.truncate(most);
        order.sort_unstable_by(falling);
        let with = |token: u32| (token, logits[token as usize] - total);
        Likely {
            total,
            top: order.into_iter().map(with).collect(),
            logits: logits.to_vec(),
        }
    }

    fn of(self, token: u32) -> Logprobs {
        let logit = self.logits.get(token as usize).copied();
        Logprobs {
            chosen: logit.unwrap_or(f32::NAN) - self.total,
            top: self.top,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Constraint;
    use super::*;
    use crate::sample::SamplingParams;

    fn choose(generate: &mut Generate, logits: &[f32]) -> Option<(u32, Option<Logprobs>)> {
        let mut sampler = Sampler::new(SamplingParams::greedy());
        let counts = HashMap::from([(1, 2)]);
        generate
            .choose(&mut sampler, logits.to_vec(), &counts)
            .expect("no constraint fails")
    }

    #[test]
    fn probabilities_are_those_before_any_change() {
        let mut generate = Generate {
            logprobs: Some(2),
            bias: vec![(0, 100.0)],
            ..Generate::default()
        };
        let logits = [0.0, f32::NAN, 0.0, 2.0f32.ln()];
        let (token, logprobs) = choose(&mut generate, &logits).expect("there are numbers");
        let logprobs = logprobs.expect("they were asked for");
        assert_eq!(token, 0);
        assert!((logprobs.chosen - 0.25f32.ln()).abs() < 1e-6);
        let tokens: Vec<u32> = logprobs.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [3, 0]);
        assert!((logprobs.top[0].1 - 0.5f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn penalties_count_what_was_generated() {
        let mut generate = Generate {
            frequency_penalty: 0.4,
            presence_penalty: 0.3,
            ..Generate::default()
        };
        assert!(generate.needs_logits());
        // 2.0 - 0.3 - 2 * 0.4 is less than 1.0.
        let chosen = choose(&mut generate, &[0.0, 2.0, 1.0]).map(|(token, _)| token);
        assert_eq!(chosen, Some(2));
        assert_eq!(choose(&mut generate, &[f32::NAN]), None);
    }

    struct Only(u32);

    impl Constraint for Only {
        fn mask(&mut self, logits: &mut [f32]) -> Result<(), String> {
            for (token, logit) in (0..).zip(logits) {
                if token != self.0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
            Ok(())
        }

        fn accept(&mut self, _: u32) -> Result<bool, String> {
            Ok(true)
        }
    }

    #[test]
    fn a_constraint_leaves_only_what_it_allows() {
        let mut generate = Generate {
            constraint: Some(Box::new(Only(2))),
            ..Generate::default()
        };
        let chosen = choose(&mut generate, &[9.0, 8.0, -1000.0]).map(|(token, _)| token);
        assert_eq!(chosen, Some(2));
        assert_eq!(choose(&mut generate, &[9.0, 8.0, f32::NAN]), None);
    }
}
