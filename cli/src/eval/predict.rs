//! Predicting a text token by token: divergence and perplexity.

use anyhow::{Context, Result};
use longwave_runtime::engine::{Engine, Feed, Wants};
use longwave_runtime::eval::Footprint;
use longwave_runtime::kv::SequenceId;

use super::Subject;

/// Takes a window in on all engines and compares their predictions token by token.
pub fn compare(
    dense: &mut Engine,
    subjects: &mut [Subject],
    prompt: &[u32],
    rest: &[u32],
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let begin = |engine: &mut Engine| -> Result<(SequenceId, Vec<f32>)> {
        let sequence = engine.start();
        let logits = engine.prefill(sequence, prompt, &mut |_| ())?;
        Ok((sequence, logits))
    };
    let (sequence, mut expected) = begin(dense)?;
    let begun = subjects
        .iter_mut()
        .map(|subject| begin(&mut subject.engine));
    let mut states = begun.collect::<Result<Vec<_>>>()?;
    progress(prompt.len() as u64);
    for &token in rest {
        // The next step is a decode step on all engines, the first prediction comes with the prompt.
        for (subject, (_, logits)) in subjects.iter_mut().zip(&states) {
            subject.comparison.add(&expected, logits, token)?;
        }
        let step = |engine: &mut Engine, sequence| -> Result<Vec<f32>> {
            let feed = Feed {
                sequence,
                tokens: &[token],
                wants: Wants::Logits,
            };
            let logits = engine.step(&[feed])?.logits.pop();
            logits.context("there are no logits")
        };
        expected = step(dense, sequence)?;
        for (subject, (sequence, logits)) in subjects.iter_mut().zip(&mut states) {
            *logits = step(&mut subject.engine, *sequence)?;
        }
        progress(1);
    }
    dense.end(sequence);
    for (subject, (sequence, _)) in subjects.iter_mut().zip(states) {
        subject.footprint = Some(Footprint::of(&subject.engine, sequence)?);
        subject.engine.end(sequence);
    }
    Ok(())
}
