//! What is refused before anything is done.

use longwave_contract::kv::LatentShape;

use super::{Engine, EngineOptions, Feed};
use crate::codec::check_width;
use crate::error::Error;
use crate::model::ModelConfig;

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

    /// Whether a step of these feeds is possible, with room for all that it takes, so that it does not fail half-way.
    pub(super) fn check(&mut self, feeds: &[Feed<'_>]) -> Result<(), Error> {
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
        let grows = |feed: &Feed<'_>| (feed.sequence, feed.tokens.len() as u32);
        self.make_room(&feeds.iter().map(grows).collect::<Vec<_>>())
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
