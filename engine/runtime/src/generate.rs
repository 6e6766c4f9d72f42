//! Generating text: one sequence, streamed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{Engine, Feed, Outcome, Wants};
use crate::error::Error;
use crate::kv::SequenceId;
use crate::sample::{Sampler, SamplingParams};
use crate::session::{self, SessionError, SessionState};
use crate::text::{Detokenizer, StopStrings, TextError, Tokenizer};

/// When and how generation ends, and how tokens are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The most tokens to generate; `None` goes on to the end of the context.
    pub max_tokens: Option<usize>,
    /// Generation ends before the first of these texts.
    pub stop: Vec<String>,
    /// Whether an end-of-sequence token is passed on like any other.
    pub ignore_end: bool,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model chose an end-of-sequence token.
    EndOfSequence,
    /// A stop string appeared.
    StopString,
    /// `max_tokens` were generated.
    MaxTokens,
    /// The context is full.
    Context,
}

impl FinishReason {
    /// The word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::EndOfSequence => "end",
            FinishReason::StopString => "stop_string",
            FinishReason::MaxTokens => "max_tokens",
            FinishReason::Context => "context",
        }
    }
}

/// One step of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The token that was generated; `None` in a last piece that only releases text.
    pub token: Option<u32>,
    /// Text that became certain; often empty, since characters and beginnings of stop strings are held back until they are whole.
    pub text: String,
}

/// What a generation did.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// All generated tokens.
    pub tokens: Vec<u32>,
    /// Their text, up to a stop string.
    pub text: String,
    /// Why it ended; `None` when it was not run to its end.
    pub finish: Option<FinishReason>,
    /// Prompt tokens that were found in the cache.
    pub cached_tokens: usize,
    /// Prompt tokens that were taken in.
    pub prompt_tokens: usize,
    /// Time for the prompt.
    pub prefill_time: Duration,
    /// Steps after the prompt: one for every token after the first, which comes with the prompt, and one more where the model then ended.
    pub decode_steps: usize,
    /// Time for those steps.
    pub decode_time: Duration,
    /// Bytes of cache that the sequence holds.
    pub kv_bytes: u64,
}

impl Summary {
    /// Prompt tokens per second; 0 when none were taken in.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prompt_tokens, self.prefill_time)
    }

    /// Decode steps per second; 0 when there was none.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.decode_steps, self.decode_time)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if count == 0 {
        0.0
    } else {
        count as f64 / time.as_secs_f64().max(1e-9)
    }
}

/// A conversation with a model: one sequence whose cache stays between calls.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    sequence: SequenceId,
}

impl Session {
    /// A session with an empty cache.
    pub fn new(mut engine: Engine, tokenizer: Arc<Tokenizer>) -> Self {
        let sequence = engine.start();
        Session {
            engine,
            tokenizer,
            sequence,
        }
    }

    /// The session that a file holds, and what was saved with it.
    ///
    /// # Errors
    /// As [`session::load`].
    pub fn resume(
        mut engine: Engine,
        tokenizer: Arc<Tokenizer>,
        path: &Path,
    ) -> Result<(Self, SessionState), SessionError> {
        let (sequence, state) = session::load(path, &mut engine)?;
        let resumed = Session {
            engine,
            tokenizer,
            sequence,
        };
        Ok((resumed, state))
    }

    /// Saves the session to a file; returns the file's length in bytes.
    ///
    /// # Errors
    /// As [`session::save`].
    pub fn save(&self, path: &Path, state: &SessionState) -> Result<u64, SessionError> {
        session::save(path, &self.engine, self.sequence, state)
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Tokens that are in the cache.
    ///
    /// # Errors
    /// Never, while the session is alive; the engine's lookup is passed on.
    pub fn tokens(&self) -> Result<&[u32], Error> {
        Ok(&self.engine.sequence(self.sequence)?.tokens)
    }

    /// Tokens that lie in blocks.
    ///
    /// # Errors
    /// As [`Session::tokens`].
    pub fn compressed_tokens(&self) -> Result<u32, Error> {
        Ok(self.engine.sequence(self.sequence)?.compressed())
    }

    /// Takes a prompt in and returns what is wanted after its last token, and how many of its tokens were in the cache: those are not computed again.
    ///
    /// # Errors
    /// As [`Engine::prefill_for`].
    pub fn prefill(
        &mut self,
        prompt: &[u32],
        wants: Wants<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(Outcome, usize), Error> {
        let Some(last) = prompt.len().checked_sub(1) else {
            return Err(Error::EmptyPrompt);
        };
        // The last token is always computed: what comes after it is what is asked for.
        let have = self.tokens()?;
        let shared = have
            .iter()
            .zip(&prompt[..last])
            .take_while(|(a, b)| a == b)
            .count();
        let shared = self.engine.truncate(self.sequence, shared as u32)? as usize;
        let rest = &prompt[shared..];
        let progress = &mut |done| progress(shared + done);
        let outcome = self
            .engine
            .prefill_for(self.sequence, rest, wants, progress)?;
        Ok((outcome, shared))
    }

    /// Starts generating after a prompt. `progress` is told how many of its tokens are done.
    ///
    /// # Errors
    /// When a parameter is out of range, and as [`Session::prefill`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: GenerateOptions,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Generation<'_>, Error> {
        options.sampling.check().map_err(Error::Parameter)?;
        let mut sampler = Sampler::new(options.sampling.clone());
        prompt.iter().for_each(|&token| sampler.accept(token));
        let start = Instant::now();
        let wants = Wants::Token(sampler.sampling());
        let (outcome, cached_tokens) = self.prefill(prompt, wants, progress)?;
        let prefill_time = start.elapsed();
        Ok(Generation {
            detokenizer: Detokenizer::new(Arc::clone(&self.tokenizer)),
            stop: StopStrings::new(&options.stop),
            session: self,
            options,
            sampler,
            chosen: outcome.tokens.first().copied().flatten(),
            pending: None,
            failed: false,
            summary: Summary {
                tokens: Vec::new(),
                text: String::new(),
                finish: None,
                cached_tokens,
                prompt_tokens: prompt.len() - cached_tokens,
                prefill_time,
                decode_steps: 0,
                decode_time: Duration::ZERO,
                kv_bytes: 0,
            },
        })
    }
}

/// Tokens as they are generated: an iterator that ends when generation does.
pub struct Generation<'s> {
    session: &'s mut Session,
    options: GenerateOptions,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopStrings,
    /// What was chosen after everything that is in the cache; `None` where the logits held no number.
    chosen: Option<u32>,
    /// A token that was passed on and is not in the cache yet.
    pending: Option<u32>,
    /// Whether an error ended the stream.
    failed: bool,
    summary: Summary,
}

impl Generation<'_> {
    /// What was done so far, and the cache that it holds.
    ///
    /// # Errors
    /// Never, while the session is alive; the engine's lookup is passed on.
    pub fn finish(mut self) -> Result<Summary, Error> {
        self.summary.kv_bytes = self.session.engine.kv_bytes(self.session.sequence)?;
        Ok(self.summary)
    }

    fn advance(&mut self) -> Result<Option<Piece>, Error> {
        if self.summary.finish.is_some() {
            return Ok(None);
        }
        if self
            .options
            .max_tokens
            .is_some_and(|most| self.summary.tokens.len() >= most)
        {
            return self.end(FinishReason::MaxTokens);
        }
        if let Some(token) = self.pending {
            let length = self.session.tokens()?.len();
            if length >= self.session.engine.options().context as usize {
                return self.end(FinishReason::Context);
            }
            let start = Instant::now();
            let feed = Feed {
                sequence: self.session.sequence,
                tokens: &[token],
                wants: Wants::Token(self.sampler.sampling()),
            };
            let outcome = self.session.engine.step(&[feed])?;
            self.chosen = outcome.tokens.first().copied().flatten();
            self.pending = None;
            self.summary.decode_steps += 1;
            self.summary.decode_time += start.elapsed();
        }
        let Some(token) = self.chosen else {
            let position = self.session.tokens()?.len() as u32 - 1;
            return Err(Error::NotANumber { position });
        };
        if !self.options.ignore_end && self.session.tokenizer.stop_tokens().contains(&token) {
            return self.end(FinishReason::EndOfSequence);
        }
        self.sampler.accept(token);
        self.pending = Some(token);
        self.summary.tokens.push(token);
        let fresh = match self.detokenizer.push(token) {
            // Embeddings are often padded beyond the tokenizer's vocabulary; what stands there has no text.
            Err(TextError::NoSuchToken { .. }) => String::new(),
            pushed => pushed?.unwrap_or_default(),
        };
        let (text, stopped) = self.stop.push(&fresh);
        self.summary.text.push_str(&text);
        if stopped {
            self.summary.finish = Some(FinishReason::StopString);
        }
        Ok(Some(Piece {
            token: Some(token),
            text,
        }))
    }

    /// Ends generation; text that was held back comes in a last piece.
    fn end(&mut self, reason: FinishReason) -> Result<Option<Piece>, Error> {
        self.summary.finish = Some(reason);
        let fresh = self.detokenizer.finish()?.unwrap_or_default();
        let (mut text, stopped) = self.stop.push(&fresh);
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        self.summary.text.push_str(&text);
        Ok((!text.is_empty()).then_some(Piece { token: None, text }))
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.advance().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}
