//! How tokens are chosen from logits, by the op [`longwave_contract::op::Sample`].

use std::collections::VecDeque;

use longwave_contract::op::{NO_CHOICE, SampleDesc, choose_token};
use serde::{Deserialize, Serialize};

use crate::random::SplitMix64;

/// How tokens are chosen. Filters apply in the order of the fields; a temperature of zero is greedy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// How the next token of a sequence is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling<'a> {
    desc: SampleDesc,
    penalty: f32,
    /// Tokens that are penalised.
    recent: &'a [u32],
}

impl<'a> Sampling<'a> {
    /// The most likely token.
    pub fn greedy() -> Self {
        Sampling {
            desc: SampleDesc::greedy(),
            penalty: 1.0,
            recent: &[],
        }
    }

    /// Whether the token is drawn.
    pub fn draws(&self) -> bool {
        self.desc.rate != 0.0
    }

    /// The tokens that are penalised.
    pub fn recent(&self) -> &'a [u32] {
        self.recent
    }

    /// The op's descriptor, where the tokens that are penalised stand in its list from number `first` on.
    pub fn desc(&self, first: u32) -> SampleDesc {
        let recent = self.recent.len() as u32;
        self.desc.penalised(self.penalty, first, recent)
    }

    /// The token that the op would choose of these logits, where they were changed on the host; `None` where none is a number.
    pub fn choose(&self, logits: &[f32]) -> Option<u32> {
        let token = choose_token(logits, &self.desc(0), self.recent);
        (token != NO_CHOICE).then_some(token)
    }
}

/// What the choice of one sequence's tokens depends on besides the logits: random numbers, and what was chosen before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

    /// The parameters.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Goes on with the random numbers of another one, where that one has the same parameters, seed included.
    pub fn follow(&mut self, other: &Sampler) {
        if self.params == other.params {
            self.random = other.random.clone();
        }
    }

    /// Makes a token count for the repetition penalty.
    pub fn accept(&mut self, token: u32) {
        self.recent.push_back(token);
        while self.recent.len() > self.params.repeat_window {
            self.recent.pop_front();
        }
    }

    /// How the next token is chosen; each call goes on to another random number. Does not [`accept`](Self::accept) it.
    pub fn sampling(&mut self) -> Sampling<'_> {
        let params = &self.params;
        let desc = match params.temperature {
            0.0 => SampleDesc::greedy(),
            temperature => {
                let draw = (self.random.number() >> 32) as u32;
                let top_k = u32::try_from(params.top_k).unwrap_or(u32::MAX);
                SampleDesc::new(temperature, top_k, params.top_p, params.min_p, draw)
            }
        };
        let recent: &[u32] = match params.repetition_penalty {
            1.0 => &[],
            _ => self.recent.make_contiguous(),
        };
        Sampling {
            desc,
            penalty: params.repetition_penalty,
            recent,
        }
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

    #[test]
    fn the_largest_is_the_lowest_of_equals_and_skips_nan() {
        assert_eq!(argmax(&[f32::NAN, 2.0, 3.0, 3.0]), Some(2));
        assert_eq!(argmax(&[f32::NAN]), None);
    }

    #[test]
    fn seeds_repeat_and_differ() {
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplingParams {
                seed,
                ..SamplingParams::default()
            });
            (0..20)
                .map(|_| sampler.sampling().desc(0).draw)
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(
            Sampler::new(SamplingParams::greedy())
                .sampling()
                .desc(0)
                .draw,
            0
        );
    }

    #[test]
    fn only_a_penalty_needs_recent_tokens() {
        let mut sampler = Sampler::new(SamplingParams {
            repeat_window: 2,
            ..SamplingParams::greedy()
        });
        (1..4).for_each(|token| sampler.accept(token));
        assert_eq!(sampler.sampling(), Sampling::greedy());
        sampler.params.repetition_penalty = 2.0;
        let sampling = sampler.sampling();
        assert_eq!(sampling.recent, [2, 3]);
        let desc = sampling.desc(5);
        assert_eq!((desc.recent_first, desc.recent), (5, 2));
        assert_eq!((desc.penalty, desc.relief), (2.0, 0.5));
    }
}
