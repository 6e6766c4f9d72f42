//! Tokens that a step chooses on the device: those that the reference chooses of the same logits.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use longwave_contract::op::{Sample, SampleDesc};
use longwave_contract::{Backend, DType, Recording};
use longwave_runtime::engine::{Engine, Feed, Wants};
use longwave_runtime::kv::SequenceId;
use longwave_runtime::policy::{DeltaKv, Dense};
use longwave_runtime::sample::{Sampler, Sampling, SamplingParams};
use longwave_tests::adapter;
use longwave_tests::rig::Rig;

use super::compress::{BUDGET, engine, identity, load, tokens};
use super::directory::Spec;

/// What the reference chooses.
fn expected(logits: &[f32], sampling: Sampling<'_>) -> Result<Option<u32>> {
    let backend = adapter::cpu();
    let mut rig = Rig::new(&backend, 0);
    let bits: Vec<u32> = logits.iter().map(|logit| logit.to_bits()).collect();
    let recent = [&[0], sampling.recent()].concat();
    let desc = [sampling.desc(1)];
    let op = Sample {
        logits: rig.words(DType::F32, 1, logits.len() as u32, &bits)?,
        samplings: rig.words(
            DType::U32,
            1,
            SampleDesc::WORDS,
            bytemuck::cast_slice(&desc),
        )?,
        recent: rig.words(DType::U32, 1, recent.len() as u32, &recent)?,
        count: rig.count(1)?,
        draws: sampling.draws(),
        out: rig.words(DType::U32, 1, 1, &[0])?,
    };
    let mut recording = Recording::new("expected");
    recording.push(op)?;
    let plan = backend.prepare(&recording)?;
    backend.wait(backend.run(plan)?)?;
    let token: Vec<u32> = bytemuck::pod_collect_to_vec(&rig.read(op.out)?);
    Ok(token.first().copied().filter(|&token| token != u32::MAX))
}

/// A sampler that penalises and filters, and one that only draws.
fn samplers() -> [Sampler; 2] {
    let usual = SamplingParams {
        repetition_penalty: 1.3,
        seed: 5,
        ..SamplingParams::default()
    };
    let plain = SamplingParams {
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        temperature: 1.5,
        ..usual.clone()
    };
    [usual, plain].map(Sampler::new)
}

/// After prompts and in decode steps of two sequences that want different things, with raw layers and with layers that compress.
pub fn is_the_references(backend: &Arc<dyn Backend>) -> Result<()> {
    let (_directory, model) = load(backend, &Spec::default())?;
    let compressing = DeltaKv::stored("identity", BUDGET, identity(&model, Some(10)));
    for mut engine in [
        engine(backend, &model, Dense)?,
        engine(backend, &model, compressing)?,
    ] {
        decode(&mut engine).with_context(|| engine.policy().to_owned())?;
    }
    Ok(())
}

/// A token for each sequence.
fn feeds<'a>(
    sequences: &[SequenceId],
    tokens: &'a [u32; 2],
    wants: [Wants<'a>; 2],
) -> [Feed<'a>; 2] {
    [0, 1].map(|index| Feed {
        sequence: sequences[index],
        tokens: std::slice::from_ref(&tokens[index]),
        wants: wants[index],
    })
}

fn decode(engine: &mut Engine) -> Result<()> {
    let all = tokens(250);
    let mut samplers = samplers();
    let mut newest = [0; 2];
    let mut sequences = Vec::new();
    for (index, length) in [200, 70].into_iter().enumerate() {
        let sampler = &mut samplers[index];
        all[..length]
            .iter()
            .for_each(|&token| sampler.accept(token));
        let sequence = engine.start();
        let logits = engine.prefill(sequence, &all[..length], &mut |_| ())?;
        engine.end(sequence);
        let (sequence, sampling) = (engine.start(), sampler.sampling());
        let wants = Wants::Token(sampling);
        let found = engine.prefill_for(sequence, &all[..length], wants, &mut |_| ())?;
        ensure!(found.logits.is_empty(), "logits were read");
        ensure!(
            found.tokens == [expected(&logits, sampling)?],
            "after a prompt of {length}: {found:?}"
        );
        sequences.push(sequence);
        newest[index] = found.tokens[0].context("no token")?;
    }
    for step in 0..12 {
        let logits = engine.step(&feeds(&sequences, &newest, [Wants::Logits; 2]))?;
        let logits = logits.logits;
        for &sequence in &sequences {
            let length = engine.sequence(sequence)?.len();
            engine.truncate(sequence, length - 1)?;
        }
        let [first, second] = &mut samplers;
        let sampling = match step % 3 {
            0 => [Some(first.sampling()), Some(second.sampling())],
            1 => [None, Some(Sampling::greedy())],
            _ => [Some(first.sampling()), None],
        };
        let wants = sampling.map(|sampling| sampling.map_or(Wants::Logits, Wants::Token));
        let found = engine.step(&feeds(&sequences, &newest, wants))?;
        let (mut tokens, mut read) = (found.tokens.into_iter(), found.logits.into_iter());
        let mut next = [0; 2];
        for ((next, sampling), logits) in next.iter_mut().zip(sampling).zip(&logits) {
            let wanted = expected(logits, sampling.unwrap_or(Sampling::greedy()))?;
            *next = wanted.context("no token")?;
            match sampling {
                Some(_) => ensure!(tokens.next() == Some(wanted), "step {step}: not {wanted:?}"),
                None => ensure!(read.next().as_ref() == Some(logits), "step {step}: logits"),
            }
        }
        ensure!(tokens.next().is_none() && read.next().is_none());
        newest = next;
        for (sampler, token) in samplers.iter_mut().zip(newest) {
            sampler.accept(token);
        }
    }
    Ok(())
}
