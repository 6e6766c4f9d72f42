//! Text for calibration where there is none: what the model writes itself.

use std::sync::Arc;

use longwave_contract::Backend;

use crate::engine::{Engine, EngineOptions, Feed, Wants};
use crate::error::Error;
use crate::model::Model;
use crate::policy::Dense;
use crate::sample::{Sampler, SamplingParams};

/// Texts that are written at once.
const TEXTS: u32 = 8;

/// Tokens of each.
const TOKENS: u32 = 512;

/// Lets the model write several texts at once, each from a token of its own. `progress` is told how many tokens are done, and of how many.
///
/// # Errors
/// The device fails, or the model's logits are no numbers.
pub fn write_text(
    backend: &Arc<dyn Backend>,
    model: &Arc<Model>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<u32>>, Error> {
    let config = model.config();
    let length = TOKENS.min(config.context).min(model.rope_positions());
    let options = EngineOptions {
        context: length,
        cache_tokens: (length + 32) * TEXTS,
        chunk: TEXTS,
        sequences: TEXTS,
        engines: 1,
        cache_permille: 1000,
        resident_rows: 0,
        restored_rows: length,
        overlap: None,
    };
    let mut engine = Engine::new(
        Arc::clone(backend),
        Arc::clone(model),
        Arc::new(Dense),
        options,
    )?;
    let mut texts: Vec<Vec<u32>> = Vec::new();
    let mut writers = Vec::new();
    for index in 0..TEXTS {
        // Any token will do to begin with; these are spread over the common ones.
        texts.push(vec![(1 + index * 97) % config.vocabulary]);
        let sampler = Sampler::new(SamplingParams {
            temperature: 1.0,
            top_p: 0.95,
            seed: u64::from(index),
            ..SamplingParams::default()
        });
        writers.push((engine.start(), sampler));
    }
    let total = (length * TEXTS) as usize;
    for done in 1..length {
        let last: Vec<u32> = texts.iter().map(|text| text[done as usize - 1]).collect();
        let feeds: Vec<Feed<'_>> = writers
            .iter_mut()
            .zip(last.chunks(1))
            .map(|((sequence, sampler), tokens)| Feed {
                sequence: *sequence,
                tokens,
                wants: Wants::Token(sampler.sampling()),
            })
            .collect();
        let tokens = engine.step(&feeds)?.tokens;
        for (text, token) in texts.iter_mut().zip(tokens) {
            text.push(token.ok_or(Error::NotANumber { position: done })?);
        }
        progress((done * TEXTS) as usize, total);
    }
    Ok(texts)
}
