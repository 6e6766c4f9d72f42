//! Rung 3: are the logits and greedy tokens those of the golden files?

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use longwave_contract::Backend;
use longwave_runtime::engine::{EngineOptions, Feed};
use longwave_runtime::sample::argmax;
use longwave_tests::adapter;
use longwave_tests::golden::Golden;
use longwave_tests::model::{MODELS, TestModel, engine};
use longwave_tests::trial;

/// Weights whose scales were rounded to f16 move logits by up to about this much.
const TOLERANCE: f32 = 0.05;

fn golden(backend: &Arc<dyn Backend>, model: TestModel, path: PathBuf) -> Result<()> {
    let golden = Golden::read(model.golden)?;
    let mut engine = engine(backend, &path, EngineOptions::single(2048))?;
    for case in &golden.cases {
        let sequence = engine.start();
        let mut logits = engine.prefill(sequence, &case.ids, &mut |_| ())?;
        let worst = case.check_logits(&logits, TOLERANCE)?;
        let mut tokens = Vec::new();
        for _ in 0..case.greedy.len() {
            let token = argmax(&logits).ok_or_else(|| anyhow::anyhow!("the logits hold no number"))?;
            tokens.push(token);
            logits = engine.step(&[Feed { sequence, tokens: &[token], logits: true }])?.swap_remove(0);
        }
        let equal = case.check_greedy(&tokens, TOLERANCE)?;
        eprintln!("{}: {:?}: logits within {worst:.4}, {equal} of {} tokens equal", model.alias, case.prompt, case.greedy.len());
        engine.end(sequence);
    }
    ensure!(engine.free_pages() == 2048 / longwave_contract::kv::PAGE, "a page was lost");
    Ok(())
}

/// A prompt in chunks of any size gives the same logits as in one.
fn chunks(backend: &Arc<dyn Backend>, model: TestModel, path: PathBuf) -> Result<()> {
    let golden = Golden::read(model.golden)?;
    let tokens: Vec<u32> = golden.cases.iter().flat_map(|case| case.ids.iter().copied()).cycle().take(150).collect();
    let mut results = Vec::new();
    for chunk in [150, 64, 7] {
        let mut engine = engine(backend, &path, EngineOptions { chunk, ..EngineOptions::single(256) })?;
        let sequence = engine.start();
        results.push(engine.prefill(sequence, &tokens, &mut |_| ())?);
    }
    for other in &results[1..] {
        let worst = results[0].iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        ensure!(worst < 0.02, "chunking moved a logit by {worst}");
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for model in MODELS {
        let path = model.fetch();
        for (name, subject) in [("cpu", Ok(adapter::cpu())), ("wgpu", adapter::wgpu())] {
            let both = subject.and_then(|subject| Ok((subject, path.clone()?)));
            let title = format!("golden logits of {} on {name}", model.alias);
            trials.push(trial::with(title, both.clone(), move |(subject, path)| golden(&subject, model, path)));
            if model.golden.starts_with("smollm2") {
                let title = format!("chunked prefill of {} on {name}", model.alias);
                trials.push(trial::with(title, both, move |(subject, path)| chunks(&subject, model, path)));
            }
        }
    }
    trial::run(trials)
}
