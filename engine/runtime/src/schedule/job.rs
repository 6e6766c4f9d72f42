//! A request while it is worked on.

use std::collections::HashMap;

use super::request::{Event, Generate, Goal, Request, RequestId, Usage};
use crate::engine::{Engine, Wants};
use crate::error::Error;
use crate::generate::FinishReason;
use crate::kv::SequenceId;
use crate::sample::Sampler;

/// A request, what it has, and what is left of it.
pub(super) struct Job {
    pub id: RequestId,
    pub priority: i32,
    pub session: Option<String>,
    pub goal: Goal,
    pub sampler: Sampler,
    /// The prompt, and what was generated.
    pub tokens: Vec<u32>,
    prompt: usize,
    /// How often tokens were generated.
    counts: HashMap<u32, u32>,
    /// Its rows; `None` while it waits.
    pub sequence: Option<SequenceId>,
    /// Prompt tokens that were in the cache when it was first admitted.
    pub cached: Option<usize>,
}

impl Job {
    pub fn new(id: RequestId, request: Request) -> Self {
        let sampling = match &request.goal {
            Goal::Generate(generate) => generate.sampling.clone(),
            Goal::Embed(_) => Default::default(),
        };
        let mut sampler = Sampler::new(sampling);
        request
            .prompt
            .iter()
            .for_each(|&token| sampler.accept(token));
        Job {
            id,
            priority: request.priority,
            session: request.session,
            goal: request.goal,
            sampler,
            prompt: request.prompt.len(),
            tokens: request.prompt,
            counts: HashMap::new(),
            sequence: None,
            cached: None,
        }
    }

    /// Goes on drawing where its session was, unless it has drawn already.
    pub fn follow(&mut self, sampler: &Sampler) {
        if self.generated() == 0 {
            self.sampler.follow(sampler);
        }
    }

    /// Tokens that were generated.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt
    }

    /// Its tokens from one on, and what is wanted after the last of them.
    pub fn feed(&mut self, from: usize, count: usize) -> (&[u32], Wants<'_>) {
        let last = from + count == self.tokens.len();
        let wants = match (&self.goal, last) {
            (Goal::Generate(generate), true) => match generate.max_tokens {
                Some(0) => Wants::Nothing,
                _ if generate.needs_logits() => Wants::Logits,
                _ => Wants::Token(self.sampler.sampling()),
            },
            _ => Wants::Nothing,
        };
        (&self.tokens[from..from + count], wants)
    }

    /// Takes the token that follows; the events that come of it, and whether it is over.
    pub fn take(&mut self, given: Given, context: usize, events: &mut Vec<Event>) -> Option<Ended> {
        let Goal::Generate(generate) = &mut self.goal else {
            return None;
        };
        if generate.max_tokens == Some(0) {
            return Some(Ended::Finished(FinishReason::MaxTokens));
        }
        let position = self.tokens.len() as u32 - 1;
        let chosen = match given {
            Given::Token(token) => Ok(token.map(|token| (token, None))),
            Given::Logits(logits) => generate.choose(&mut self.sampler, logits, &self.counts),
        };
        let (token, logprobs) = match chosen {
            Ok(Some(chosen)) => chosen,
            Ok(None) => return Some(Ended::Failed(Error::NotANumber { position })),
            Err(why) => return Some(Ended::Failed(Error::Parameter(why))),
        };
        if generate.stop_tokens.contains(&token) {
            return Some(Ended::Finished(FinishReason::EndOfSequence));
        }
        let complete = match &mut generate.constraint {
            Some(constraint) => match constraint.accept(token) {
                Ok(complete) => complete,
                Err(why) => return Some(Ended::Failed(Error::Parameter(why))),
            },
            None => false,
        };
        let most = generate.max_tokens;
        self.sampler.accept(token);
        self.tokens.push(token);
        *self.counts.entry(token).or_default() += 1;
        events.push(Event::Token {
            id: self.id,
            token,
            logprobs,
        });
        if complete {
            return Some(Ended::Finished(FinishReason::EndOfSequence));
        }
        if most.is_some_and(|most| self.generated() >= most) {
            return Some(Ended::Finished(FinishReason::MaxTokens));
        }
        // The token itself takes a row before the next one can be chosen.
        (self.tokens.len() > context).then_some(Ended::Finished(FinishReason::Context))
    }

    /// What it took.
    pub fn usage(&self, engine: &Engine) -> Usage {
        let held = self.sequence.and_then(|id| {
            let length = engine.sequence(id).ok()?.len();
            Some((engine.kv_bytes(id).ok()?, u64::from(length)))
        });
        let (kv_bytes, length) = held.unwrap_or_default();
        Usage {
            prompt_tokens: self.prompt,
            cached_tokens: self.cached.unwrap_or(0),
            completion_tokens: self.generated(),
            kv_bytes,
            kv_bytes_dense: length * engine.model().config().dense_bytes_per_token(),
        }
    }

    /// How it generates; `None` where it does not.
    pub fn generate(&self) -> Option<&Generate> {
        match &self.goal {
            Goal::Generate(generate) => Some(generate),
            Goal::Embed(_) => None,
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("tokens", &self.tokens.len())
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

/// What the engine gave a job.
pub(super) enum Given {
    Token(Option<u32>),
    Logits(Vec<f32>),
}

/// How a job ended.
pub(super) enum Ended {
    Finished(FinishReason),
    Failed(Error),
}
