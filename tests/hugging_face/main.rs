//! Rungs 3 and 4 without a download: small models of every architecture and rotary scaling, written as Hugging Face directories, against
//! a forward pass in f64 that shares nothing with the engine.

mod broken;
mod compress;
mod directory;
mod moved;
mod network;
mod random;
mod reference;
mod sampled;
mod schedule;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use longwave_contract::Backend;
use longwave_contract::op::Activation;
use longwave_runtime::engine::{Engine, EngineOptions, Feed, Wants};
use longwave_runtime::generate::{GenerateOptions, Session};
use longwave_runtime::model::ModelSource;
use longwave_runtime::policy::{Budget, Dense, OmniKv, Policy};
use longwave_runtime::sample::SamplingParams;
use longwave_runtime::text::{ChatOptions, Message};
use longwave_tests::{adapter, model, trial};
use serde_json::json;

use directory::{Directory, Dtype, Spec};
use reference::Sparse;

/// The engine keeps activations in f32 and rows of the cache in f16; the reference rounds the latter too, but a sum near a rounding
/// boundary may go either way. Logits have a standard deviation near 1.
const TOLERANCE: f64 = 4e-3;

/// Every architecture, scaling, element type and way to store a model.
fn specs() -> Vec<(&'static str, Spec)> {
    let llama = Spec::default();
    let scaled = |scaling: serde_json::Value| Spec {
        rope_scaling: Some(scaling),
        ..Spec::default()
    };
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    vec![
        ("llama", llama.clone()),
        (
            "llama in f32, untied, one file",
            Spec {
                dtype: Dtype::F32,
                tied: false,
                shards: 1,
                ..llama.clone()
            },
        ),
        (
            "llama, tied beside an output matrix",
            Spec {
                spare_head: true,
                ..llama.clone()
            },
        ),
        (
            "llama in bf16, biased",
            Spec {
                dtype: Dtype::Bf16,
                bias: true,
                ..llama.clone()
            },
        ),
        (
            "llama, linear scaling",
            scaled(json!({"type": "linear", "factor": 2.5})),
        ),
        (
            "llama, llama3 scaling",
            scaled(json!({
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64
            })),
        ),
        ("llama, yarn", scaled(yarn.clone())),
        (
            "qwen2",
            Spec {
                architecture: "qwen2",
                bias: true,
                heads: 8,
                kv_heads: 1,
                head_dim: 16,
                ..llama.clone()
            },
        ),
        (
            "qwen2, yarn",
            Spec {
                architecture: "qwen2",
                bias: true,
                rope_scaling: Some(yarn),
                ..llama.clone()
            },
        ),
        (
            "qwen3",
            Spec {
                architecture: "qwen3",
                head_norm: true,
                heads: 4,
                kv_heads: 2,
                head_dim: 32,
                ..llama
            },
        ),
    ]
}

/// Tokens of a sequence that are taken in as a prompt.
const PROMPT: usize = 70;

/// Two observers, and fewer tokens than the prompt has.
fn sparse() -> (Spec, Sparse) {
    let spec = Spec {
        layers: 6,
        heads: 6,
        ..Spec::default()
    };
    let sparse = Sparse {
        full: vec![0, 1, 3],
        sink: 4,
        recent: 9,
        keep: 20,
        prompt: PROMPT,
    };
    (spec, sparse)
}

fn policy(spec: &Spec, sparse: Option<&Sparse>) -> Result<Arc<dyn Policy>> {
    let Some(sparse) = sparse else {
        return Ok(Arc::new(Dense));
    };
    let full: Vec<u32> = sparse.full.iter().map(|&layer| layer as u32).collect();
    let budget = Budget {
        sink: sparse.sink as u32,
        recent: sparse.recent as u32,
        keep: sparse.keep as u32,
    };
    let policy = OmniKv::new(spec.layers as u32, Some(&full), budget)?;
    Ok(Arc::new(policy))
}

/// Two sequences that decode together, one of which is too short to leave anything out, give what each gives alone.
fn together(backend: &Arc<dyn Backend>) -> Result<()> {
    let (spec, sparse) = sparse();
    let directory = Directory::write(&spec)?;
    let options = EngineOptions {
        context: 128,
        cache_tokens: 256,
        chunk: 64,
        sequences: 2,
        engines: 1,
        cache_permille: 1000,
        resident_rows: 0,
        restored_rows: 128,
        overlap: None,
    };
    let policy = policy(&spec, Some(&sparse))?;
    let mut engine = model::engine_with(backend, directory.path(), policy, options)?;
    let prompts: [Vec<u32>; 2] =
        [90, 20].map(|length| (0..length).map(|i| (i * 29 + 5) % 300).collect());
    let mut alone = Vec::new();
    for prompt in &prompts {
        let sequence = engine.start();
        engine.prefill(sequence, prompt, &mut |_| ())?;
        let feed = Feed {
            sequence,
            tokens: &[7],
            wants: Wants::Logits,
        };
        alone.extend(engine.step(&[feed])?.logits);
        engine.end(sequence);
    }
    // The short one first: it is not the order in which they run.
    let mut sequences = Vec::new();
    for prompt in prompts.iter().rev() {
        let sequence = engine.start();
        engine.prefill(sequence, prompt, &mut |_| ())?;
        sequences.push(sequence);
    }
    let feeds = [0, 1].map(|index| Feed {
        sequence: sequences[index],
        tokens: &[7],
        wants: Wants::Logits,
    });
    let together = engine.step(&feeds)?.logits;
    for (alone, together) in alone.iter().rev().zip(&together) {
        let differences = alone.iter().zip(together).map(|(a, b)| (a - b).abs());
        let worst = differences.fold(0.0f32, f32::max);
        ensure!(worst < 1e-4, "company moved a logit by {worst}");
    }
    Ok(())
}

/// Logits of a prompt in chunks and of single steps after it.
fn logits(backend: &Arc<dyn Backend>, spec: &Spec, sparse: Option<Sparse>) -> Result<()> {
    let directory = Directory::write(spec)?;
    let tokens: Vec<u32> = (0..77).map(|i| (i * 37 + 11) % spec.vocabulary).collect();
    let expected = reference::logits(spec, &directory.weights, &tokens, sparse.as_ref());
    let options = EngineOptions {
        chunk: 32,
        ..EngineOptions::single(128)
    };
    let policy = policy(spec, sparse.as_ref())?;
    let mut engine = model::engine_with(backend, directory.path(), policy, options)?;
    let sequence = engine.start();
    let mut found = engine.prefill(sequence, &tokens[..PROMPT], &mut |_| ())?;
    for position in PROMPT - 1..tokens.len() {
        let expected = &expected[position];
        ensure!(found.len() == expected.len(), "{} logits", found.len());
        for (token, (found, expected)) in found.iter().zip(expected).enumerate() {
            let difference = (f64::from(*found) - expected).abs();
            ensure!(
                difference <= TOLERANCE,
                "position {position}, token {token}: {found}, expected {expected}"
            );
        }
        if let Some(&token) = tokens.get(position + 1) {
            let feed = Feed {
                sequence,
                tokens: &[token],
                wants: Wants::Logits,
            };
            found = engine.step(&[feed])?.logits.pop().context("no logits")?;
        }
    }
    Ok(())
}

/// Tokenizer, chat template, stop token and sampling defaults of the directory are used, and text comes out.
fn text() -> Result<()> {
    let directory = Directory::write(&Spec::default())?;
    let source = ModelSource::open(directory.path())?;
    let tokenizer = Arc::new(source.tokenizer()?);
    ensure!(
        tokenizer.stop_tokens() == [directory::END],
        "{:?} end a text",
        tokenizer.stop_tokens()
    );
    let defaults = source.sampling_defaults();
    ensure!(
        (defaults.temperature, defaults.top_k) == (0.25, 7),
        "{defaults:?}"
    );
    let template = source
        .chat_template()?
        .context("the directory has a template")?;
    let prompt = template.render(&[Message::user("Grüße".into())], &ChatOptions::default())?;
    ensure!(
        prompt == "<|start|>user\nGrüße<|end|><|start|>assistant\n",
        "{prompt:?}"
    );
    let prompt = tokenizer.encode_rendered(&prompt)?;
    ensure!(prompt.first() == Some(&directory::START), "{prompt:?}");
    ensure!(
        tokenizer.decode(&prompt, true)? == "user\nGrüßeassistant\n",
        "it decodes to something else"
    );

    let engine = model::engine(&adapter::cpu(), directory.path(), EngineOptions::single(96))?;
    let mut session = Session::new(engine, tokenizer);
    let options = GenerateOptions {
        sampling: SamplingParams::greedy(),
        max_tokens: Some(20),
        ignore_end: true,
        ..Default::default()
    };
    let mut generation = session.generate(&prompt, options, &mut |_| ())?;
    let streamed = (&mut generation)
        .map(|piece| Ok(piece?.text))
        .collect::<Result<String>>()?;
    let summary = generation.finish()?;
    ensure!(summary.tokens.len() == 20, "{summary:?}");
    ensure!(
        streamed == summary.text,
        "the stream differs from the summary"
    );
    Ok(())
}

/// What is missing or misshapen is named with its file.
fn refusals() -> Result<()> {
    let qwen3 = Spec {
        architecture: "qwen3",
        head_norm: true,
        ..Spec::default()
    };
    let cases: [(Spec, &str, &str); 5] = [
        (
            Spec {
                head_norm: false,
                ..qwen3
            },
            "self_attn.q_norm.weight",
            "is missing",
        ),
        (
            Spec {
                architecture: "qwen2",
                bias: false,
                ..Spec::default()
            },
            "self_attn.q_proj.bias",
            "is missing",
        ),
        (
            Spec {
                architecture: "mamba",
                ..Spec::default()
            },
            "model_type",
            "mamba",
        ),
        (
            Spec {
                rope_scaling: Some(json!({"rope_type": "longrope"})),
                ..Spec::default()
            },
            "rope_type",
            "longrope",
        ),
        (
            Spec {
                stated_width: Some(96),
                ..Spec::default()
            },
            "model.embed_tokens.weight",
            "expected [300, 96]",
        ),
    ];
    for (spec, field, what) in cases {
        let directory = Directory::write(&spec)?;
        let opened = model::engine(&adapter::cpu(), directory.path(), EngineOptions::single(32));
        let Err(error) = opened else {
            anyhow::bail!("{field}: nothing was refused");
        };
        let error = format!("{error:#}");
        ensure!(
            error.contains(field) && error.contains(what),
            "{error}, expected {field} and {what}"
        );
    }
    Ok(())
}

/// An engine cannot reach beyond the context that its model was loaded for: the rotary table ends there.
fn no_table() -> Result<()> {
    let directory = Directory::write(&Spec {
        context: 1024,
        ..Spec::default()
    })?;
    let backend = adapter::cpu();
    let engine = model::engine(&backend, directory.path(), EngineOptions::single(32))?;
    let again = |context| {
        let (backend, model) = (Arc::clone(&backend), Arc::clone(engine.model()));
        Engine::new(
            backend,
            model,
            Arc::new(Dense),
            EngineOptions::single(context),
        )
    };
    again(256)?;
    let Err(error) = again(512) else {
        anyhow::bail!("the engine was made");
    };
    ensure!(error.to_string().contains("512"), "{error}");
    Ok(())
}

/// A model for which there is no room is refused with the numbers, and nothing of it stays on the device.
fn no_room() -> Result<()> {
    let directory = Directory::write(&Spec::default())?;
    let limit = |bytes| {
        adapter::wgpu_with(|options| options.memory_limit = Some(bytes)).map_err(anyhow::Error::msg)
    };
    let backend = limit(100 << 10)?;
    let before = backend.allocated();
    let Err(error) = model::engine(&backend, directory.path(), EngineOptions::single(256)) else {
        anyhow::bail!("the model was loaded");
    };
    let error = error.to_string();
    ensure!(
        error.contains("does not fit") && error.contains("weights") && error.contains("256 tokens"),
        "{error}"
    );
    ensure!(
        backend.allocated() == before,
        "{} bytes stayed on the device",
        backend.allocated() - before
    );
    model::engine(
        &limit(100 << 20)?,
        directory.path(),
        EngineOptions::single(256),
    )?;
    Ok(())
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (name, spec) in specs() {
        for (backend, subject) in adapter::all() {
            let spec = spec.clone();
            trials.push(trial::with(
                format!("{name} on {backend}"),
                subject,
                move |subject| logits(&subject, &spec, None),
            ));
        }
    }
    for (backend, subject) in adapter::all() {
        let name = format!("llama with omnikv on {backend}");
        trials.push(trial::with(name, subject.clone(), |subject| {
            let (spec, sparse) = sparse();
            logits(&subject, &spec, Some(sparse))
        }));
        let name = format!("two sequences with omnikv on {backend}");
        trials.push(trial::with(name, subject.clone(), |subject| {
            together(&subject)
        }));
        let name = format!("tokens that {backend} chooses");
        trials.push(trial::with(name, subject, |subject| {
            sampled::is_the_references(&subject)
        }));
    }
    let biased = Spec {
        architecture: "qwen2",
        bias: true,
        ..Spec::default()
    };
    let normed = Spec {
        architecture: "qwen3",
        head_norm: true,
        ..Spec::default()
    };
    for (backend, subject) in adapter::all() {
        for spec in [Spec::default(), biased.clone(), normed.clone()] {
            let name = format!("identity codec of {} on {backend}", spec.architecture);
            trials.push(trial::with(name, subject.clone(), move |subject| {
                compress::identity_is_dense(&subject, &spec)
            }));
        }
        let kinds = [
            ("linear", None),
            ("gelu", Some(Activation::Gelu)),
            ("swiglu", Some(Activation::SwiGlu)),
        ];
        for (kind, activation) in kinds {
            let name = format!("{kind} checkpoint on {backend}");
            trials.push(trial::with(name, subject.clone(), move |subject| {
                compress::checkpoint_is_dense(&subject, &Spec::default(), activation)
            }));
        }
        for ((down, encoder), (up, decoder)) in
            kinds.iter().flat_map(|down| kinds.map(|up| (*down, up)))
        {
            // As published without biases, and otherwise with them.
            let biased = (down, up) != ("swiglu", "linear");
            let name = format!("network of {down} down, {up} up on {backend}");
            trials.push(trial::with(name, subject.clone(), move |subject| {
                let (_directory, model) = compress::load(&subject, &Spec::default())?;
                let kinds = (encoder, decoder);
                network::restores_as_defined(&subject, model.config(), kinds, biased)
            }));
        }
        let name = format!("limits of compression on {backend}");
        trials.push(trial::with(name, subject.clone(), |subject| {
            compress::limits(&subject, &Spec::default())
        }));
        let name = format!("what stays restored on {backend}");
        trials.push(trial::with(name, subject.clone(), |subject| {
            compress::residency(&subject, &Spec::default())
        }));
        let name = format!("two compressed sequences on {backend}");
        trials.push(trial::with(name, subject, |subject| {
            compress::company(&subject, &Spec::default())
        }));
    }
    type Check = fn(&Arc<dyn Backend>) -> Result<()>;
    let together: [(&str, Check); 7] = [
        ("a server whose device fails", broken::served),
        ("a device that fails", broken::requests),
        ("requests together", schedule::company),
        ("shared beginnings", schedule::beginnings),
        ("sessions", schedule::sessions),
        ("requests that are refused or cancelled", schedule::refusals),
        ("vectors", schedule::vectors),
    ];
    for (backend, subject) in adapter::all() {
        for (name, check) in together {
            let name = format!("{name} on {backend}");
            trials.push(trial::with(name, subject.clone(), move |subject| {
                check(&subject)
            }));
        }
    }
    for (from, left) in adapter::all() {
        for (to, right) in adapter::all().into_iter().filter(|(to, _)| *to != from) {
            let both = left.clone().and_then(|left| Ok((left, right?)));
            let name = format!("a sequence of {from} goes on on {to}");
            trials.push(trial::with(name, both.clone(), |(left, right)| {
                moved::goes_on(&left, &right)
            }));
            let name = format!("a session that {from} saved goes on on {to}");
            trials.push(trial::with(name, both, |(left, right)| {
                schedule::saved(&left, &right)
            }));
        }
        let name = format!("snapshots that do not fit on {from}");
        trials.push(trial::with(name, left, |subject| {
            moved::misfits_are_refused(&subject)
        }));
    }
    trials.push(trial::with("codec files", Ok(()), |()| {
        compress::codec_files()
    }));
    trials.push(trial::with(
        "a context beyond the rotary table is refused",
        Ok(()),
        |()| no_table(),
    ));
    for (backend, subject) in adapter::all() {
        let name = format!("random weights on {backend}");
        trials.push(trial::with(name, subject, |subject| {
            random::seeds_decide(&subject)
        }));
    }
    trials.push(trial::with("text", Ok(()), |()| text()));
    trials.push(trial::with("what is wrong is named", Ok(()), |()| {
        refusals()
    }));
    trials.push(trial::with(
        "a model without room is refused",
        adapter::wgpu().map(|_| ()),
        |()| no_room(),
    ));
    trial::run(trials)
}
