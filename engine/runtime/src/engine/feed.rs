//! What a step takes in, and what it gives.

use crate::kv::SequenceId;
use crate::sample::Sampling;

/// Tokens of one sequence that a step takes in.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its next tokens.
    pub tokens: &'a [u32],
    /// What is wanted after the last of them.
    pub wants: Wants<'a>,
}

/// What is wanted after the last token of a feed.
#[derive(Clone, Copy, Debug)]
pub enum Wants<'a> {
    /// Nothing: more follow.
    Nothing,
    /// The logits, all of which are read back.
    Logits,
    /// The token that is chosen by them on the device, which is all that is read back.
    Token(Sampling<'a>),
}

/// What a step gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The logits, one for each token of the vocabulary, of each feed that wants them, in the order of feeds.
    pub logits: Vec<Vec<f32>>,
    /// The token of each feed that wants one, in the order of feeds; `None` where no logit is a number.
    pub tokens: Vec<Option<u32>>,
}

/// What a step gives of one feed.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Nothing,
    Logits(Vec<f32>),
    Token(Option<u32>),
}

impl Outcome {
    /// What feeds gave, in their order.
    pub(super) fn of(all: impl IntoIterator<Item = Given>) -> Self {
        let mut outcome = Outcome::default();
        for given in all {
            match given {
                Given::Nothing => {}
                Given::Logits(logits) => outcome.logits.push(logits),
                Given::Token(token) => outcome.tokens.push(token),
            }
        }
        outcome
    }
}
