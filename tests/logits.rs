//! Rung 3: are the logits and greedy tokens those of the golden files?

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use longwave_contract::{Backend, DeviceKind};
use longwave_runtime::engine::{EngineOptions, Feed, Wants};
use longwave_runtime::sample::argmax;
use longwave_tests::adapter;
use longwave_tests::golden::{Golden, GoldenCase};
use longwave_tests::model::{MODELS, TestModel, engine};
use longwave_tests::trial;

/// Weights whose scales were rounded to f16 move logits by up to about this much.
const TOLERANCE: f32 = 0.05;

/// How far the size of chunks moves a logit: sums near the boundary of two numbers of the cache, which are f16, may go either way.
const CHUNKED: f32 = 0.02;
/// Where products of many rows round their inputs to f16 and those of few do not, the size decides which it is as well. With matrix units a
/// logit of 49,152 moves by up to 0.023 (0.007 without them on the same device), as far as they are from the golden ones.
const HALF_CHUNKED: f32 = TOLERANCE;

/// Prompts of more tokens take minutes on a software adapter.
const LONG: usize = 256;

fn golden(backend: &Arc<dyn Backend>, path: &std::path::Path, case: &GoldenCase) -> Result<()> {
    let context = (case.ids.len() + case.greedy.len()) as u32;
    let mut engine = engine(backend, path, EngineOptions::single(context))?;
    let pages = engine.free_pages();
    let sequence = engine.start();
    let mut logits = engine.prefill(sequence, &case.ids, &mut |_| ())?;
    let worst = case.check_logits(&logits, TOLERANCE)?;
    let mut tokens = Vec::new();
    for _ in 0..case.greedy.len() {
        let token = argmax(&logits).context("the logits hold no number")?;
        tokens.push(token);
        let feed = Feed {
            sequence,
            tokens: &[token],
            wants: Wants::Logits,
        };
        logits = engine.step(&[feed])?.logits.swap_remove(0);
    }
    let equal = case.check_greedy(&tokens, TOLERANCE)?;
    let steps = case.greedy.len();
    #[expect(clippy::print_stderr, reason = "how near it came is worth a line")]
    {
        eprintln!("logits within {worst:.4}, {equal} of {steps} tokens equal");
    }
    engine.end(sequence);
    ensure!(engine.free_pages() == pages, "a page was lost");
    Ok(())
}

/// A prompt in chunks of any size gives the same logits as in one.
fn chunks(backend: &Arc<dyn Backend>, model: TestModel, path: PathBuf) -> Result<()> {
    let golden = Golden::read(model.golden)?;
    let ids = golden
        .cases
        .iter()
        .flat_map(|case| case.ids.iter().copied());
    let tokens: Vec<u32> = ids.take(100).collect();
    let mut results = Vec::new();
    for chunk in [100, 64, 7] {
        let options = EngineOptions {
            chunk,
            ..EngineOptions::single(128)
        };
        let mut engine = engine(backend, &path, options)?;
        let sequence = engine.start();
        results.push(engine.prefill(sequence, &tokens, &mut |_| ())?);
    }
    let bound = match backend.caps().half_products {
        true => HALF_CHUNKED,
        false => CHUNKED,
    };
    for other in &results[1..] {
        let differences = results[0].iter().zip(other).map(|(a, b)| (a - b).abs());
        let worst = differences.fold(0.0f32, f32::max);
        ensure!(worst < bound, "chunking moved a logit by {worst}");
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for model in MODELS {
        let path = model.fetch();
        let cases = match Golden::read(model.golden) {
            Ok(golden) => golden.cases,
            Err(error) => panic!("{error:#}"),
        };
        for (name, subject) in adapter::all() {
            let both = subject.and_then(|subject| Ok((subject, path.clone()?)));
            for case in cases.clone() {
                let title = format!("{} on {name}: {}", model.alias, case.title());
                let able = both.clone().and_then(|(subject, path)| {
                    if subject.caps().kind == DeviceKind::Software && case.ids.len() > LONG {
                        return Err("so long a prompt takes minutes on a software adapter".into());
                    }
                    Ok((subject, path))
                });
                trials.push(trial::with(title, able, move |(subject, path)| {
                    golden(&subject, &path, &case)
                }));
            }
            if model.golden.starts_with("smollm2") {
                let title = format!("{} on {name}: a prompt in chunks", model.alias);
                trials.push(trial::with(title, both, move |(subject, path)| {
                    chunks(&subject, model, path)
                }));
            }
        }
    }
    trial::run(trials)
}
