//! Policies that compress, on models that the test makes: what must be exact is exact, and what must not change does not.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use half::bf16;
use longwave_contract::Backend;
use longwave_contract::kv::{BLOCK, ReferenceShape};
use longwave_contract::op::Activation;
use longwave_runtime::calibrate::{CalibrateOptions, calibrate, means};
use longwave_runtime::codec::{
    CheckpointOptions, Codec, ModelCodec, Transform, open_checkpoint, rotated,
};
use longwave_runtime::engine::{Engine, EngineOptions, Feed, Wants};
use longwave_runtime::kv::SequenceId;
use longwave_runtime::model::{Model, ModelSource};
use longwave_runtime::policy::{Budget, DeltaKv, Dense, Policy};
use safetensors::tensor::{Dtype, TensorView};

use super::directory::{Directory, Spec};

/// A codec that loses nothing still rounds rows before the rotary embedding, residuals and restored rows to f16, each by up to 2^-11 of an
/// element. Logits have a standard deviation near 1.
const ROUNDING: f32 = 2e-2;

pub const BUDGET: Budget = Budget {
    sink: 8,
    recent: 20,
    keep: u32::MAX,
};

fn options(sequences: u32) -> EngineOptions {
    EngineOptions {
        chunk: 48,
        sequences,
        cache_tokens: 512 * sequences,
        cache_permille: 1000,
        ..EngineOptions::single(512)
    }
}

pub fn load(backend: &Arc<dyn Backend>, spec: &Spec) -> Result<(Directory, Arc<Model>)> {
    let spec = Spec {
        context: 512,
        ..spec.clone()
    };
    let directory = Directory::write(&spec)?;
    let source = ModelSource::open(directory.path())?;
    let model = Model::load(backend, &source, &options(2), &mut |_| ())?;
    Ok((directory, Arc::new(model)))
}

pub fn engine(
    backend: &Arc<dyn Backend>,
    model: &Arc<Model>,
    policy: impl Policy + 'static,
) -> Result<Engine> {
    let (backend, model) = (Arc::clone(backend), Arc::clone(model));
    Ok(Engine::new(backend, model, Arc::new(policy), options(2))?)
}

pub fn tokens(count: u32) -> Vec<u32> {
    (0..count)
        .map(|i| (i * i * 7 + i * 37 + 11) % 300)
        .collect()
}

fn step(engine: &mut Engine, sequence: SequenceId, token: u32) -> Result<Vec<f32>> {
    let feed = Feed {
        sequence,
        tokens: &[token],
        wants: Wants::Logits,
    };
    engine.step(&[feed])?.logits.pop().context("no logits")
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

pub fn identity(model: &Model, stride: Option<u32>) -> Vec<Arc<dyn Codec>> {
    let config = model.config();
    let references = stride.map(|stride| ReferenceShape {
        stride,
        neighbours: 4,
    });
    let codec = Transform::identity(config.shape.cols(), references).shared();
    vec![codec; config.layers as usize]
}

/// A prompt in chunks, a later prompt over what is compressed, and decode steps that compress more give what dense attention gives.
pub fn identity_is_dense(backend: &Arc<dyn Backend>, spec: &Spec) -> Result<()> {
    let (_directory, model) = load(backend, spec)?;
    for stride in [None, Some(10), Some(32)] {
        let mut dense = engine(backend, &model, Dense)?;
        let policy = DeltaKv::stored("identity", BUDGET, identity(&model, stride));
        let mut compressed = engine(backend, &model, policy)?;
        let all = tokens(470);
        let mut logits = Vec::new();
        for engine in [&mut dense, &mut compressed] {
            let sequence = engine.start();
            let mut found = vec![
                engine.prefill(sequence, &all[..300], &mut |_| ())?,
                engine.prefill(sequence, &all[300..360], &mut |_| ())?,
            ];
            for &token in &all[360..] {
                found.push(step(engine, sequence, token)?);
            }
            logits.push((sequence, found));
        }
        let blocks = compressed.sequence(logits[1].0)?.blocks.len() as u32;
        ensure!(blocks == (470 - 8 - 20) / BLOCK, "{blocks} blocks");
        for (index, (a, b)) in logits[0].1.iter().zip(&logits[1].1).enumerate() {
            let worst = distance(a, b);
            ensure!(
                worst < ROUNDING,
                "stride {stride:?}, logits {index}: off by {worst}"
            );
        }
    }
    Ok(())
}

/// A network that multiplies by `scale`. With an activation: `f(v + 1) - f(-v - 1) - 1` is `v`, for GELU, and for silu, by which a linear half
/// of ones multiplies.
fn multiplying(side: &str, kind: Option<Activation>, cols: usize, scale: f32) -> Vec<Written> {
    let network = format!("compress_{side}");
    // Rows of the identity, and for the second half those of its negative.
    let signed = |at: usize| match (at / cols % cols == at % cols, at < cols * cols) {
        (false, _) => 0.0,
        (true, true) => 1.0,
        (true, false) => -1.0,
    };
    let square = cols * cols;
    let write = |part: &str, shape: &[usize], value: &dyn Fn(usize) -> f32| {
        let values = (0..shape.iter().product()).map(|at| bf16::from_f32(value(at)));
        let bytes = values.flat_map(bf16::to_le_bytes).collect();
        (format!("{network}.{part}"), shape.to_vec(), bytes)
    };
    let Some(activation) = kind else {
        let mut tensors = vec![write("weight", &[cols, cols], &|at| scale * signed(at))];
        if side == "down" {
            tensors.push(write("bias", &[cols], &|_| 3.0));
        }
        return tensors;
    };
    let (gates, [first, second]) = match activation {
        Activation::Gelu => (2, ["0", "2"]),
        Activation::SwiGlu => (4, ["w12", "w3"]),
    };
    let inner = |at: usize| if at < 2 * square { signed(at) } else { 0.0 };
    let bias = |at: usize| if at / cols == 1 { -1.0 } else { 1.0 };
    let outer = |at: usize| {
        let (row, col) = (at / (2 * cols), at % (2 * cols));
        scale * signed(col * cols + row)
    };
    vec![
        write(&format!("{first}.weight"), &[gates * cols, cols], &inner),
        write(&format!("{first}.bias"), &[gates * cols], &bias),
        write(&format!("{second}.weight"), &[cols, 2 * cols], &outer),
        write(&format!("{second}.bias"), &[cols], &|_| -scale),
    ]
}

/// A tensor's name, shape and bytes.
type Written = (String, Vec<usize>, Vec<u8>);

/// A checkpoint for all layers whose encoder doubles and whose decoder halves residuals gives what dense attention gives.
pub fn checkpoint_is_dense(
    backend: &Arc<dyn Backend>,
    spec: &Spec,
    kind: Option<Activation>,
) -> Result<()> {
    let (_directory, model) = load(backend, spec)?;
    let cols = model.config().shape.cols() as usize;
    let tensors = [("down", 2.0), ("up", 0.5)];
    let tensors = tensors.map(|(side, scale)| multiplying(side, kind, cols, scale));
    let tensors = tensors.concat();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::BF16, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None)?)?;
    let options = CheckpointOptions::default();
    let codecs = open_checkpoint(&path, model.config(), &options)?;
    let codecs: Vec<Arc<dyn Codec>> = codecs.into_iter().flatten().collect();
    ensure!(codecs.len() == model.config().layers as usize);
    let mut dense = engine(backend, &model, Dense)?;
    let mut compressed = engine(backend, &model, DeltaKv::stored("network", BUDGET, codecs))?;
    let all = tokens(400);
    let mut logits = Vec::new();
    for engine in [&mut dense, &mut compressed] {
        let sequence = engine.start();
        engine.prefill(sequence, &all, &mut |_| ())?;
        logits.push(step(engine, sequence, 7)?);
        ensure!(engine.sequence(sequence)?.len() == 401);
    }
    let worst = distance(&logits[0], &logits[1]);
    ensure!(worst < ROUNDING, "off by {worst}");
    Ok(())
}

/// A budget at or above the history reads what reading everything reads; what compressed once stays as it is; where pages and blocks lie does
/// not matter.
pub fn limits(backend: &Arc<dyn Backend>, spec: &Spec) -> Result<()> {
    let spec = Spec {
        layers: 4,
        ..spec.clone()
    };
    let (_directory, model) = load(backend, &spec)?;
    let codecs = rotated(model.config().shape, &means(backend, &model)?, 4);
    let all = tokens(420);
    let run = |engine: &mut Engine| -> Result<(SequenceId, Vec<Vec<f32>>)> {
        let sequence = engine.start();
        let mut found = vec![engine.prefill(sequence, &all[..400], &mut |_| ())?];
        for &token in &all[400..] {
            found.push(step(engine, sequence, token)?);
        }
        Ok((sequence, found))
    };
    let mut everything = engine(
        backend,
        &model,
        DeltaKv::stored("q4", BUDGET, codecs.clone()),
    )?;
    let (first, expected) = run(&mut everything)?;
    for keep in [384, 400, u32::MAX] {
        let budget = Budget { keep, ..BUDGET };
        let codecs = codecs.iter().cloned().map(Some).collect();
        let policy = DeltaKv::new(Some(&[0, 2]), budget, codecs)?;
        let (_, found) = run(&mut engine(backend, &model, policy)?)?;
        ensure!(found == expected, "keep={keep} is not everything");
    }
    // Sinks and tails of any size; without sinks, the first token refers to itself.
    let (_, dense) = run(&mut engine(backend, &model, Dense)?)?;
    for (sink, recent) in [(u32::MAX, 1), (0, u32::MAX), (0, 1), (33, 95)] {
        let budget = Budget {
            sink,
            recent,
            keep: 1,
        };
        let policy = DeltaKv::stored("identity", budget, identity(&model, Some(16)));
        let (_, found) = run(&mut engine(backend, &model, policy)?)?;
        let worst = dense.iter().zip(&found).map(|(a, b)| distance(a, b));
        let worst = worst.fold(0.0, f32::max);
        ensure!(
            worst < ROUNDING,
            "sink={sink}, recent={recent}: off by {worst}"
        );
    }
    // A second sequence takes the other pages and blocks; a third, those of the first.
    let blocks = everything.read_blocks(first, 1)?;
    ensure!(blocks.iter().any(|&byte| byte != 0), "the blocks are empty");
    let (second, found) = run(&mut everything)?;
    ensure!(found == expected, "other pages give other logits");
    ensure!(
        everything.read_blocks(first, 1)? == blocks,
        "blocks have changed"
    );
    ensure!(
        everything.read_blocks(second, 1)? == blocks,
        "equal tokens make other blocks"
    );
    everything.end(first);
    let (_, found) = run(&mut everything)?;
    ensure!(found == expected, "used pages give other logits");
    Ok(())
}

/// Two sequences that decode together, one of which leaves tokens out, give what each gives alone; a sequence that was cut goes on as if it had ended there.
pub fn company(backend: &Arc<dyn Backend>, spec: &Spec) -> Result<()> {
    let spec = Spec {
        layers: 4,
        ..spec.clone()
    };
    let (_directory, model) = load(backend, &spec)?;
    let codecs = identity(&model, Some(16)).into_iter().enumerate();
    // Layer 0 keeps raw rows: it observes over a dense view.
    let codecs = codecs.map(|(layer, codec)| (layer > 0).then_some(codec));
    let budget = Budget { keep: 40, ..BUDGET };
    let policy = DeltaKv::new(Some(&[0, 2]), budget, codecs.collect())?;
    let mut engine = engine(backend, &model, policy)?;
    let all = tokens(400);
    let mut alone = Vec::new();
    for length in [390, 100] {
        let sequence = engine.start();
        engine.prefill(sequence, &all[..length], &mut |_| ())?;
        alone.push(step(&mut engine, sequence, 7)?);
        engine.end(sequence);
    }
    let mut sequences = Vec::new();
    for length in [390, 100] {
        let sequence = engine.start();
        engine.prefill(sequence, &all[..length], &mut |_| ())?;
        sequences.push(sequence);
    }
    let feeds = [1, 0].map(|index| Feed {
        sequence: sequences[index],
        tokens: &[7],
        wants: Wants::Logits,
    });
    let together = engine.step(&feeds)?.logits;
    for (alone, together) in alone.iter().rev().zip(&together) {
        let worst = distance(alone, together);
        ensure!(worst < 1e-4, "company moved a logit by {worst}");
    }

    let cut = sequences[0];
    let kept = engine.truncate(cut, 200)?;
    ensure!(kept == 8 + BLOCK, "{kept} tokens are left");
    engine.prefill(cut, &all[kept as usize..390], &mut |_| ())?;
    let again = step(&mut engine, cut, 7)?;
    let worst = distance(&alone[0], &again);
    ensure!(worst < ROUNDING, "a cut moved a logit by {worst}");
    Ok(())
}

/// What stays restored between steps is what restoring everything in each step gives, bit by bit: over steps in which rows are evicted and
/// tails become blocks, for sequences that decode together, by turns, that are cut, prompted again, and that take each other's rows.
pub fn residency(backend: &Arc<dyn Backend>, spec: &Spec) -> Result<()> {
    let spec = Spec {
        layers: 6,
        ..spec.clone()
    };
    let (_directory, model) = load(backend, &spec)?;
    let codecs = rotated(model.config().shape, &means(backend, &model)?, 4);
    let all = tokens(450);
    for (overlap, full_coded) in [(None, true), (Some(300), false)] {
        let budget = Budget { keep: 40, ..BUDGET };
        let run = |resident_rows: u32| -> Result<Vec<Vec<Vec<f32>>>> {
            let codecs = (0..).zip(codecs.iter().cloned());
            let codecs =
                codecs.map(|(layer, codec)| (full_coded || layer % 3 > 0).then_some(codec));
            let policy = DeltaKv::new(Some(&[0, 3]), budget, codecs.collect())?;
            let options = EngineOptions {
                resident_rows,
                overlap,
                cache_tokens: 4 * 512,
                ..options(2)
            };
            let (model, policy) = (Arc::clone(&model), Arc::new(policy));
            let mut engine = Engine::new(Arc::clone(backend), model, policy, options)?;
            ensure!(engine.is_resident() == (resident_rows >= 196));
            let mut found = Vec::new();
            let mut sequences = Vec::new();
            for length in [300, 277, 290] {
                let sequence = engine.start();
                engine.prefill(sequence, &all[..length], &mut |_| ())?;
                sequences.push(sequence);
            }
            let mut decode = |engine: &mut Engine, which: &[usize], steps: u32, salt: u32| {
                let mut newest = vec![salt; which.len()];
                for _ in 0..steps {
                    let feeds: Vec<Feed<'_>> = which
                        .iter()
                        .zip(&newest)
                        .map(|(&index, token)| Feed {
                            sequence: sequences[index],
                            tokens: std::slice::from_ref(token),
                            wants: Wants::Logits,
                        })
                        .collect();
                    let logits = engine.step(&feeds)?.logits;
                    newest = logits.iter().map(|logits| greedy(logits)).collect();
                    found.push(logits);
                }
                Ok::<_, anyhow::Error>(())
            };
            decode(&mut engine, &[0, 1], 30, 3)?;
            // One goes on alone; its tail has become a block meanwhile.
            decode(&mut engine, &[1], 20, 4)?;
            decode(&mut engine, &[1, 0], 3, 5)?;
            // A third takes the lane of one of them.
            decode(&mut engine, &[2, 0], 4, 6)?;
            decode(&mut engine, &[1, 0], 3, 7)?;
            // A cut within the tail, and other tokens in the place of those that were cut.
            engine.truncate(sequences[0], 325)?;
            decode(&mut engine, &[0, 1], 5, 8)?;
            engine.truncate(sequences[0], 320)?;
            engine.prefill(sequences[0], &all[320..332], &mut |_| ())?;
            decode(&mut engine, &[0], 4, 9)?;
            // A cut within blocks.
            let kept = engine.truncate(sequences[1], 200)? as usize;
            engine.prefill(sequences[1], &all[kept / 2..kept / 2 + 150], &mut |_| ())?;
            decode(&mut engine, &[2, 1], 4, 10)?;
            // A step that was written and not run, or run and forgotten, leaves nothing behind.
            engine.stage(&[Feed {
                sequence: sequences[2],
                tokens: &[17],
                wants: Wants::Logits,
            }])?;
            decode(&mut engine, &[1, 2], 3, 11)?;
            let bytes = engine.kv_bytes(sequences[2])?;
            let rows = u64::from(4 * resident_rows) * model_row_bytes(&engine);
            ensure!(
                !engine.is_resident() || bytes > rows,
                "{bytes} bytes hold {rows} bytes of rows"
            );
            Ok(found)
        };
        let (expected, found) = (run(0)?, run(224)?);
        ensure!(expected.len() == found.len());
        for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let worst = expected.iter().zip(found).map(|(a, b)| distance(a, b));
            let worst = worst.fold(0.0, f32::max);
            ensure!(
                expected == found,
                "overlap {overlap:?}, step {step}: off by {worst}"
            );
        }
        // Rows for less than a choice are not taken.
        if overlap.is_none() {
            ensure!(run(160)? == expected);
        }
    }
    Ok(())
}

fn model_row_bytes(engine: &Engine) -> u64 {
    engine.model().config().shape.raw_bytes()
}

fn greedy(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token as u32)
}

/// Calibration gives the same file twice, a file is read as it was written, and one for another model is refused by name.
pub fn codec_files() -> Result<()> {
    let backend = longwave_tests::adapter::cpu();
    let (_directory, model) = load(&backend, &Spec::default())?;
    let options = CalibrateOptions {
        bytes: 0.25,
        window: 256,
        tokens: 1024,
        ..CalibrateOptions::default()
    };
    let text = vec![tokens(1024)];
    let fit = || calibrate(&backend, &model, &text, &[], &options, &mut |_| ());
    let codec = fit()?;
    ensure!(
        codec.bytes() <= 0.25 && codec.bytes() > 0.2,
        "{}",
        codec.bytes()
    );
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    codec.save(&path("a"))?;
    fit()?.save(&path("b"))?;
    ensure!(
        std::fs::read(path("a"))? == std::fs::read(path("b"))?,
        "two fits differ"
    );
    let read = ModelCodec::open(&path("a"))?;
    read.check(&model)?;
    let shapes = |codec: &ModelCodec| -> Vec<_> {
        let layers = codec.layers();
        layers
            .iter()
            .map(|layer| (layer.shape(), layer.parameters()))
            .collect()
    };
    ensure!(
        shapes(&read) == shapes(&codec),
        "a codec changes in its file"
    );

    let (_other, other) = load(
        &backend,
        &Spec {
            bias: true,
            ..Spec::default()
        },
    )?;
    let refusal = |result: Result<(), longwave_runtime::Error>| {
        result
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let error = refusal(read.check(&other));
    ensure!(error.contains("another model"), "{error}");
    let policy = DeltaKv::stored(
        "narrow",
        BUDGET,
        vec![Transform::identity(32, None).shared(); 2],
    );
    let error = engine(&backend, &model, policy)
        .err()
        .context("a narrow codec was taken")?;
    ensure!(error.to_string().contains("layer 0"), "{error}");
    // Also where the model wrote enough beside it.
    for (few, written) in [(20, vec![]), (3, vec![tokens(600)])] {
        let short = calibrate(
            &backend,
            &model,
            &[tokens(few)],
            &written,
            &options,
            &mut |_| (),
        );
        let error = refusal(short.map(|_| ()));
        ensure!(error.contains("too short"), "{error}");
    }
    let greedy = CalibrateOptions {
        bytes: 0.001,
        ..options.clone()
    };
    let error = refusal(calibrate(&backend, &model, &text, &[], &greedy, &mut |_| ()).map(|_| ()));
    ensure!(error.contains("cannot be met"), "{error}");
    // Damage is named; nothing panics.
    let bytes = std::fs::read(path("a"))?;
    for length in [0, 7, 100, bytes.len() - 1] {
        std::fs::write(path("c"), &bytes[..length])?;
        ensure!(
            ModelCodec::open(&path("c")).is_err(),
            "{length} bytes were taken for a codec"
        );
    }
    Ok(())
}
