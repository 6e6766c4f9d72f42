//! What one backend has written, another goes on from: pages, references and latent blocks are the same bytes everywhere.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use longwave_contract::Backend;
use longwave_runtime::calibrate::means;
use longwave_runtime::codec::rotated;
use longwave_runtime::engine::{Engine, Feed, Snapshot, Wants};
use longwave_runtime::kv::SequenceId;
use longwave_runtime::model::Model;
use longwave_runtime::policy::{Budget, DeltaKv, Dense, OmniKv};
use longwave_runtime::sample::argmax;

use super::compress::{BUDGET, engine, identity, load, tokens};
use super::directory::Spec;

/// Matrix units round what they multiply to f16, and a choice of few tokens may differ in the last one; logits have a standard deviation near 1.
const TOLERANCE: f32 = 5e-2;

/// The policies under test, by number: all rows raw, some left out, and layers of all kinds of storage.
fn policy(backend: &Arc<dyn Backend>, model: &Arc<Model>, which: usize) -> Result<Engine> {
    let budget = Budget { keep: 60, ..BUDGET };
    match which {
        0 => engine(backend, model, Dense),
        1 => engine(backend, model, OmniKv::new(4, Some(&[0, 2]), budget)?),
        _ => {
            let quantised = rotated(model.config().shape, &means(backend, model)?, 4);
            let referred = identity(model, Some(16));
            let codecs = (0..4).map(|layer| match layer {
                0 => None,
                2 => Some(Arc::clone(&quantised[layer])),
                _ => Some(Arc::clone(&referred[layer])),
            });
            let policy = DeltaKv::new(Some(&[0, 2]), budget, codecs.collect())?;
            engine(backend, model, policy)
        }
    }
}

fn step(engine: &mut Engine, sequence: SequenceId, token: u32) -> Result<Vec<f32>> {
    let feed = Feed {
        sequence,
        tokens: &[token],
        wants: Wants::Logits,
    };
    engine.step(&[feed])?.logits.pop().context("no logits")
}

/// A sequence that began on one backend gives the same tokens wherever it goes on, through decode steps that compress more.
pub fn goes_on(from: &Arc<dyn Backend>, to: &Arc<dyn Backend>) -> Result<()> {
    let spec = Spec {
        layers: 4,
        ..Spec::default()
    };
    let (_left, left_model) = load(from, &spec)?;
    let (_right, right_model) = load(to, &spec)?;
    for which in 0..3 {
        let mut left = policy(from, &left_model, which)?;
        let mut right = policy(to, &right_model, which)?;
        let all = tokens(400);
        // Other pages and blocks than on the other side.
        let other = right.start();
        right.prefill(other, &all[..40], &mut |_| ())?;
        let begun = left.start();
        let mut logits = left.prefill(begun, &all, &mut |_| ())?;
        let snapshot = left.save(begun)?;
        let moved = right.load(&snapshot)?;
        ensure!(
            right.save(moved)? == snapshot,
            "policy {which}: the bytes have changed on the way"
        );
        for index in 0..30 {
            let token = argmax(&logits).context("no number")?;
            logits = step(&mut left, begun, token)?;
            let found = step(&mut right, moved, token)?;
            let differences = logits.iter().zip(&found).map(|(a, b)| (a - b).abs());
            let worst = differences.fold(0.0f32, f32::max);
            ensure!(
                worst < TOLERANCE,
                "policy {which}, step {index}: off by {worst}"
            );
            let (mine, theirs) = (argmax(&logits), argmax(&found));
            let margin = |token: Option<u32>| token.map_or(0.0, |token| logits[token as usize]);
            ensure!(
                mine == theirs || margin(mine) - margin(theirs) < 2.0 * TOLERANCE,
                "policy {which}, step {index}: another token"
            );
        }
        ensure!(
            left.sequence(begun)?.blocks.len() == right.sequence(moved)?.blocks.len(),
            "policy {which}: another number of blocks"
        );
    }
    Ok(())
}

/// A snapshot that does not fit is refused, and nothing of it stays.
pub fn misfits_are_refused(backend: &Arc<dyn Backend>) -> Result<()> {
    let spec = Spec {
        layers: 4,
        ..Spec::default()
    };
    let (_directory, model) = load(backend, &spec)?;
    let mut engine = policy(backend, &model, 2)?;
    let sequence = engine.start();
    engine.prefill(sequence, &tokens(330), &mut |_| ())?;
    let whole = engine.save(sequence)?;
    ensure!(whole.blocks == 2 && whole.layers[1].blocks.len() > 1000);
    let free = engine.free_pages();
    let broken = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = whole.clone();
        change(&mut snapshot);
        snapshot
    };
    let misfits: [(&str, Snapshot); 6] = [
        ("layers", broken(&|it| drop(it.layers.pop()))),
        ("blocks of 330 tokens", broken(&|it| it.blocks = 9)),
        (
            "blocks of layer 1",
            broken(&|it| it.layers[1].blocks.truncate(1000)),
        ),
        (
            "raw rows of layer 3",
            broken(&|it| it.layers[3].raw.extend([0; 4])),
        ),
        ("vocabulary", broken(&|it| it.tokens[5] = u32::MAX)),
        ("context", broken(&|it| it.tokens = tokens(513))),
    ];
    for (named, snapshot) in misfits {
        let Err(error) = engine.load(&snapshot) else {
            anyhow::bail!("{named}: it was taken");
        };
        ensure!(error.to_string().contains(named), "{named}: {error}");
        ensure!(engine.free_pages() == free, "{named}: pages stay taken");
    }
    // What was given back can be had: there is room for one more, and then for none.
    engine.load(&whole)?;
    ensure!(
        engine.load(&whole).is_err(),
        "three sequences in room for two"
    );
    Ok(())
}
