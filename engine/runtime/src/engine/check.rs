//! What is refused before anything is done.

use longwave_contract::kv::{BLOCK, LatentShape};

use super::{Engine, EngineOptions, Feed};
use crate::codec::check_width;
use crate::error::Error;
use crate::kv::Sequence;
use crate::model::ModelConfig;
use crate::policy::Retention;

impl Engine {
    pub(super) fn check_tokens(&self, have: u32, tokens: &[u32]) -> Result<(), Error> {
        let vocabulary = self.model.config().vocabulary;
        if let Some(position) = tokens.iter().position(|&token| token >= vocabulary) {
            return Err(Error::TokenBeyondVocabulary {
                token: tokens[position],
                position,
                vocabulary,
            });
        }
        let total = u64::from(have) + tokens.len() as u64;
        if total > u64::from(self.options.context) {
            return Err(Error::ContextExceeded {
                tokens: total,
                context: self.options.context,
            });
        }
        Ok(())
    }

    /// Whether a step of these feeds is possible.
    pub(super) fn check(&self, feeds: &[Feed<'_>]) -> Result<(), Error> {
        let rows: usize = feeds.iter().map(|feed| feed.tokens.len()).sum();
        let limit = self.options.chunk as usize;
        let distinct = feeds
            .iter()
            .enumerate()
            .all(|(i, f)| feeds[..i].iter().all(|other| other.sequence != f.sequence));
        if rows == 0 || rows > limit || feeds.iter().any(|feed| feed.tokens.is_empty()) {
            return Err(Error::StepSize { rows, limit });
        }
        if !distinct || feeds.len() > self.options.sequences as usize {
            let sequences = self.options.sequences;
            return Err(Error::Parameter(format!(
                "a step takes up to {sequences} sequences, each once"
            )));
        }
        for feed in feeds {
            let sequence = self.sequence(feed.sequence)?;
            self.check_tokens(sequence.len(), feed.tokens)?;
        }
        self.check_room(feeds)
    }

    /// Whether there are pages and blocks for all that a step of these feeds takes, so that it does not fail half-way.
    fn check_room(&self, feeds: &[Feed<'_>]) -> Result<(), Error> {
        let (mut pages, mut blocks, mut tail) = (0, 0, 0i64);
        // Prompts of policies that compress come first, one after another: each writes its new tail before it gives the old one back.
        let mut most = 0i64;
        let sinks = self.sinks();
        let is_prompt = |feed: &&Feed<'_>| {
            let begun = self.sequences.get(&feed.sequence);
            feed.tokens.len() > 1 || begun.is_none_or(Sequence::is_empty)
        };
        let (prompts, decoding): (Vec<&Feed<'_>>, Vec<&Feed<'_>>) =
            feeds.iter().partition(is_prompt);
        for (feed, prompt) in [(prompts, true), (decoding, false)]
            .into_iter()
            .flat_map(|(feeds, prompt)| feeds.into_iter().map(move |feed| (feed, prompt)))
        {
            let sequence = self.sequence(feed.sequence)?;
            let length = sequence.len() + feed.tokens.len() as u32;
            pages += sequence.missing_pages(length);
            if self.layered.is_none() {
                continue;
            }
            let new = match self.policy.retention(length, sequence.compressed()) {
                Retention::KeepAll => 0,
                Retention::Compress(range) => range.len() as u32 / BLOCK,
            };
            blocks += new;
            let old = sequence.tail.len() as i64;
            if prompt {
                tail += i64::from(sequence.tail_pages(length - new * BLOCK, sinks));
                most = most.max(tail);
                tail -= old;
            } else {
                tail += (i64::from(sequence.tail_pages(length, sinks)) - old).max(0);
                most = most.max(tail);
            }
        }
        self.pool.pages.check(pages)?;
        self.pool.tail.check(u32::try_from(most).unwrap_or(0))?;
        self.pool.blocks.check(blocks)
    }
}

/// Whether a codec fits a model's rows and an engine's context.
pub(super) fn check_codec(
    layer: u32,
    shape: Option<LatentShape>,
    config: &ModelConfig,
    options: &EngineOptions,
    sinks: u32,
) -> Result<(), Error> {
    let Some(shape) = shape else {
        return Ok(());
    };
    check_width(config.shape)?;
    if shape.cols != config.shape.cols() {
        return Err(Error::Parameter(format!(
            "the codec of layer {layer} is for rows of {} elements, the model's have {}",
            shape.cols,
            config.shape.cols()
        )));
    }
    let limit = shape.token_limit(sinks);
    if options.context > limit {
        return Err(Error::Parameter(format!(
            "the codec of layer {layer} can name the references of {limit} tokens with 16 bits, fewer than a context of {}: \
             use a smaller context or a codec with fewer references",
            options.context
        )));
    }
    Ok(())
}
