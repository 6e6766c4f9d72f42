//! Rung 2: which op of a real step diverges first?

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use longwave_contract::{Backend, Trace, first_divergence};
use longwave_runtime::engine::{EngineOptions, Feed, Wants};
use longwave_tests::adapter;
use longwave_tests::golden::Golden;
use longwave_tests::model::{MODELS, TestModel, engine};
use longwave_tests::trial;

/// A prompt's chunk, then a decode step over it, op by op.
fn trace(subject: &Arc<dyn Backend>, model: TestModel, path: PathBuf) -> Result<()> {
    let golden = Golden::read(model.golden)?;
    let options = EngineOptions {
        chunk: 64,
        ..EngineOptions::single(128)
    };
    let cpu = adapter::cpu();
    let mut left = engine(&cpu, &path, options.clone())?;
    let mut right = engine(subject, &path, options)?;
    let ids = &golden.cases[0].ids;
    let (a, b) = (left.start(), right.start());
    for tokens in [&ids[..ids.len() - 1], &ids[ids.len() - 1..]] {
        let recordings = (
            left.stage(&[Feed {
                sequence: a,
                tokens,
                wants: Wants::Logits,
            }])?,
            right.stage(&[Feed {
                sequence: b,
                tokens,
                wants: Wants::Logits,
            }])?,
        );
        let divergence = first_divergence(
            Trace {
                backend: &*cpu,
                recording: &recordings.0,
            },
            Trace {
                backend: &**subject,
                recording: &recordings.1,
            },
        )?;
        ensure!(
            !divergence.diverged,
            "{} rows: {:?}",
            tokens.len(),
            divergence.agreements.last()
        );
        ensure!(
            divergence.agreements.len() > left.model().config().layers as usize * 5,
            "ops are missing from the trace"
        );
        left.step(&[Feed {
            sequence: a,
            tokens,
            wants: Wants::Nothing,
        }])?;
        right.step(&[Feed {
            sequence: b,
            tokens,
            wants: Wants::Nothing,
        }])?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for model in MODELS {
        for (backend, subject) in adapter::others() {
            let both = subject.and_then(|subject| Ok((subject, model.fetch()?)));
            let title = format!("{} op by op on {backend}", model.alias);
            trials.push(trial::with(title, both, move |(subject, path)| {
                trace(&subject, model, path)
            }));
        }
    }
    trial::run(trials)
}
