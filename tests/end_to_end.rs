//! Rung 4: the program, as users and other programs call it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use longwave_contract::Backend;
use longwave_runtime::codec::rotated;
use longwave_runtime::engine::{Engine, EngineOptions, Feed, Wants};
use longwave_runtime::model::{Model, ModelSource};
use longwave_runtime::policy::{Budget, DeltaKv, Dense, Policy};
use longwave_tests::adapter;
use longwave_tests::golden::Golden;
use longwave_tests::model::{MODELS, TestModel};
use longwave_tests::program::{call, call_with, json};
use longwave_tests::trial;

const TOLERANCE: f32 = 0.05;

fn ids(tokens: &[u32]) -> String {
    tokens
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// `logits` and `run` agree with the golden file, by the interface that other programs use.
fn interfaces(model: TestModel, path: PathBuf, backend: &str) -> Result<()> {
    let golden = Golden::read(model.golden)?;
    let file = path.to_str().context("the model's path is not UTF-8")?;
    for case in golden.cases.iter().take(2) {
        let tokens = ids(&case.ids);
        let found = json(&[
            "logits",
            "-m",
            file,
            "--tokens",
            &tokens,
            "--top",
            "20",
            "--backend",
            backend,
            "--json",
        ])?;
        let top: Vec<(u32, f32)> = serde_json::from_value(found["top"].clone())?;
        ensure!(top.len() == 20, "{} of 20 logits", top.len());
        ensure!(
            top.windows(2).all(|pair| pair[0].1 >= pair[1].1),
            "the logits are not in order: {top:?}"
        );
        for (token, expected) in case.top.iter().take(10) {
            let (_, found) = top
                .iter()
                .find(|(t, _)| t == token)
                .with_context(|| format!("token {token} is not among the top"))?;
            ensure!(
                (found - expected).abs() <= TOLERANCE,
                "token {token}: {found}, expected {expected}"
            );
        }
        for (key, expected) in [("mean", case.logit_mean), ("std", case.logit_std)] {
            let found = found[key].as_f64().with_context(|| format!("no {key}"))?;
            ensure!(
                (found as f32 - expected).abs() <= TOLERANCE,
                "{key}: {found}, expected {expected}"
            );
        }
        let most = case.greedy.len().to_string();
        let found = json(&[
            "run",
            "-m",
            file,
            "--tokens",
            &tokens,
            "--greedy",
            "--max-tokens",
            &most,
            "--backend",
            backend,
            "--json",
        ])?;
        let tokens: Vec<u32> = serde_json::from_value(found["tokens"].clone())?;
        case.check_greedy(&tokens, TOLERANCE)?;
        ensure!(
            found["text"].as_str().is_some_and(|text| !text.is_empty()),
            "no text"
        );
        for key in [
            "prefill_tokens_per_second",
            "decode_tokens_per_second",
            "kv_bytes",
        ] {
            ensure!(
                found[key].as_f64().is_some_and(|value| value > 0.0),
                "{key} is {}",
                found[key]
            );
        }
    }
    Ok(())
}

/// A question in plain words gets an answer in plain words, the same each time.
fn answer(path: PathBuf) -> Result<()> {
    let file = path.to_str().context("the model's path is not UTF-8")?;
    let ask = || {
        call(&[
            "run",
            "-m",
            file,
            "--backend",
            "cpu",
            "--greedy",
            "--max-tokens",
            "40",
            "What is the capital of France?",
        ])
    };
    let (first, second) = (ask()?, ask()?);
    ensure!(
        first.status.success(),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );
    let text = String::from_utf8(first.stdout)?;
    ensure!(text.contains("Paris"), "{text:?}");
    ensure!(!text.contains("<|im_"), "control tokens in {text:?}");
    ensure!(
        second.stdout == text.as_bytes(),
        "a second run answered otherwise"
    );
    Ok(())
}

/// A seed gives the same text again, and another seed another.
fn seeds(path: PathBuf, backend: &str) -> Result<()> {
    let file = path.to_str().context("the model's path is not UTF-8")?;
    let tokens = |seed: &str| -> Result<Vec<u32>> {
        let found = json(&[
            "run",
            "-m",
            file,
            "--seed",
            seed,
            "--temperature",
            "1",
            "--repetition-penalty",
            "1.1",
            "--max-tokens",
            "20",
            "--backend",
            backend,
            "--json",
            "Tell me a story.",
        ])?;
        Ok(serde_json::from_value(found["tokens"].clone())?)
    };
    let (first, again, other) = (tokens("7")?, tokens("7")?, tokens("8")?);
    ensure!(first.len() == 20, "{} tokens", first.len());
    ensure!(first == again, "{first:?}, then {again:?}");
    ensure!(first != other, "two seeds gave {first:?}");
    Ok(())
}

/// Bad input: one clear line, a non-zero exit code, no panic.
fn refusals(path: PathBuf) -> Result<()> {
    let file = path.to_str().context("the model's path is not UTF-8")?;
    let folder = tempfile::tempdir()?;
    let truncated = folder.path().join("truncated.gguf");
    std::fs::write(&truncated, &std::fs::read(&path)?[..100_000])?;
    let truncated = truncated
        .to_str()
        .context("the temporary path is not UTF-8")?;
    let long = ids(&vec![1; 9000]);
    let cases: [(&[&str], &str); 9] = [
        (&["run", "-m", file, "--backend", "cpu", ""], "empty"),
        (
            &[
                "run",
                "-m",
                file,
                "--backend",
                "cpu",
                "--tokens",
                "1,2,99999999",
            ],
            "99999999",
        ),
        (
            &["run", "-m", file, "--backend", "cpu", "--tokens", "1,x"],
            "x",
        ),
        (
            &["run", "-m", file, "--backend", "cpu", "--tokens", &long],
            "8192",
        ),
        (
            &["run", "-m", "/no/such/model.gguf", "hello"],
            "/no/such/model.gguf",
        ),
        (
            &["run", "-m", truncated, "--backend", "cpu", "hello"],
            "truncated.gguf",
        ),
        (
            &[
                "run",
                "-m",
                file,
                "--backend",
                "wgpu",
                "--device",
                "no such device",
                "hello",
            ],
            "no such device",
        ),
        (
            &[
                "run",
                "-m",
                file,
                "--backend",
                "cpu",
                "--temperature",
                "nan",
                "hello",
            ],
            "temperature",
        ),
        (
            &[
                "run",
                "-m",
                file,
                "--backend",
                "cpu",
                "--kv",
                "nonsense",
                "hello",
            ],
            "nonsense",
        ),
    ];
    for (arguments, expected) in cases {
        let output = call(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let shown: Vec<&str> = arguments
            .iter()
            .map(|argument| &argument[..argument.len().min(40)])
            .collect();
        ensure!(!output.status.success(), "{shown:?} succeeded");
        ensure!(
            errors.contains(expected),
            "{shown:?}: {errors:?} does not say {expected:?}"
        );
        ensure!(!errors.contains("panicked"), "{shown:?}: {errors}");
        ensure!(output.stdout.is_empty(), "{shown:?} wrote to stdout");
    }
    Ok(())
}

/// A codec is calibrated, used and measured; it is small, near dense attention, and refused where it does not belong.
fn compression(path: PathBuf) -> Result<()> {
    let model = path.to_str().context("the model's path is not UTF-8")?;
    let folder = tempfile::tempdir()?;
    let place = |name: &str| folder.path().join(name).display().to_string();
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/ARCHITECTURE.md");
    let codec = place("a.codec");
    let common = ["-m", model, "--backend", "cpu"];
    let run = |first: &[&str], rest: &[&str]| json(&[first, &common, rest].concat());
    let found = run(
        &["calibrate"],
        &[
            "--text", text, "--tokens", "2048", "--window", "1024", "--bytes", "0.22", "-o",
            &codec, "--json",
        ],
    )?;
    let bytes = found["bytes"].as_f64().context("no bytes")?;
    ensure!(bytes <= 0.22 && bytes > 0.2, "{bytes} of the bytes");
    ensure!(
        found["layers"]
            .as_array()
            .is_some_and(|layers| layers.len() == 30)
    );

    let policy = |settings: &str| format!("deltakv:codec={codec},{settings}");
    let (all, few) = (policy("keep=all"), policy("keep=64"));
    let found = run(
        &["eval"],
        &[
            "--kv",
            "q4",
            "--kv",
            &all,
            "--kv",
            &few,
            "--text",
            other,
            "--context",
            "512",
            "--predict",
            "8",
            "--json",
        ],
    )?;
    let figure = |index: usize, name: &str| {
        found["policies"][index][name]
            .as_f64()
            .with_context(|| format!("no {name}"))
    };
    for (index, share, limit) in [(0, 0.282, 0.05), (1, 0.221, 0.05), (2, 0.221, 1.0)] {
        ensure!(figure(index, "history_ratio")? <= share, "{found}");
        ensure!(figure(index, "kld_mean")? <= limit, "{found}");
    }
    ensure!(
        figure(2, "kld_mean")? > figure(1, "kld_mean")?,
        "choosing costs nothing: {found}"
    );

    let prompt = "once upon a time there was a king who ".repeat(40);
    let found = run(
        &["run"],
        &[
            "--kv",
            &few,
            "--raw",
            &prompt,
            "--greedy",
            "--max-tokens",
            "3",
            "--json",
        ],
    )?;
    ensure!(found["compressed_tokens"].as_u64() >= Some(128), "{found}");
    ensure!(found["codec_bytes"].as_u64() > Some(1 << 20), "{found}");
    ensure!(found["kv_ratio"].as_f64() < Some(0.9), "{found}");

    std::fs::write(place("short.txt"), "too little")?;
    let short = place("short.txt");
    let output = call(&["calibrate", "-m", model, "--text", &short, "-o", &codec])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && errors.contains("too short"),
        "{errors}"
    );
    std::fs::write(place("b.codec"), "no codec")?;
    let damaged = format!("deltakv:codec={}", place("b.codec"));
    let far = format!("{few},full=0+99");
    for (kv, expected) in [
        (damaged.as_str(), "b.codec"),
        ("deltakv:codec=/no/such.codec", "is not there"),
        (&far, "layer 99"),
    ] {
        let output = call(&["run", "-m", model, "--backend", "cpu", "--kv", kv, "x"])?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{kv} was taken");
        ensure!(errors.contains(expected), "{kv}: {errors}");
    }
    Ok(())
}

/// A conversation that is kept in a file goes on where it was, on another backend too; a file that is damaged is refused and left alone.
fn kept(model: PathBuf) -> Result<()> {
    let model = model.to_str().context("the model's path is not UTF-8")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("talk.session");
    let file = path.to_str().context("the path is not UTF-8")?;
    let talk = |backend: &str, kv: &str, lines: &str| {
        let common = ["chat", "-m", model, "--session", file, "--greedy"];
        let more = ["--max-tokens", "12", "--backend", backend, "--kv", kv];
        call_with(&[common.as_slice(), &more].concat(), lines)
    };
    let said = |output: &std::process::Output| {
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let whole = talk("cpu", "dense", "My name is Ada.\nSay my name.\n")?;
    let (whole, errors) = said(&whole);
    ensure!(whole.lines().count() >= 2, "{errors}");
    std::fs::remove_file(&path)?;
    let (first, _) = said(&talk("cpu", "dense", "My name is Ada.\n")?);
    let (second, notes) = said(&talk("auto", "dense", "Say my name.\n")?);
    ensure!(
        format!("{first}{second}") == whole,
        "{first}{second}, not {whole}"
    );
    ensure!(notes.contains("2 messages"), "{notes}");
    let kept = std::fs::read(&path)?;
    let (_, errors) = said(&talk("cpu", "q8", "And now?\n")?);
    ensure!(
        errors.contains("the section policy does not fit"),
        "{errors}"
    );
    let mut damaged = kept.clone();
    damaged[kept.len() / 2] ^= 1;
    std::fs::write(&path, &damaged)?;
    let output = talk("cpu", "dense", "And now?\n")?;
    let (_, errors) = said(&output);
    ensure!(
        !output.status.success() && errors.contains("is damaged"),
        "{errors}"
    );
    ensure!(std::fs::read(&path)? == damaged, "it was written to");
    Ok(())
}

/// What `plan` says that fits does, and takes what it says, working memory included.
fn planned(model: PathBuf) -> Result<()> {
    let file = model.to_str().context("the model's path is not UTF-8")?;
    let memory = "236MiB";
    let common = [
        "plan",
        "-m",
        file,
        "--memory",
        memory,
        "--backend",
        "cpu",
        "--json",
    ];
    let plan = json(
        &[
            common.as_slice(),
            &["--context", "512", "--kv", "dense", "--kv", "q8"],
        ]
        .concat(),
    )?;
    ensure!(plan["memory"] == 236 << 20, "{plan}");
    let source = ModelSource::open(&model)?;
    let config = source.config().clone();
    let means = vec![vec![0.0; config.shape.cols() as usize]; config.layers as usize];
    for (index, name) in ["dense", "q8"].into_iter().enumerate() {
        let number = |field: &str| {
            let number = plan["policies"][index][field].as_u64();
            number.with_context(|| format!("no {field} in {plan}"))
        };
        let (context, sequences) = (number("context")? as u32, number("sequences")? as u32);
        ensure!(
            context > 1000 && context < config.context && sequences > 1,
            "{plan}"
        );
        for (context, sequences, expected) in [
            (context, 1, number("context_bytes")?),
            (512, sequences, number("sequences_bytes")?),
        ] {
            let backend: Arc<dyn Backend> = Arc::new(longwave_cpu::CpuBackend::new());
            let policy: Arc<dyn Policy> = match name {
                "dense" => Arc::new(Dense),
                _ => Arc::new(DeltaKv::stored(
                    name,
                    Budget::default(),
                    rotated(config.shape, &means, 8),
                )),
            };
            let chunk = EngineOptions::chunk_for(backend.caps(), &config).min(context);
            let options = EngineOptions {
                chunk: chunk.max(sequences),
                sequences,
                cache_tokens: context * sequences,
                cache_permille: if name == "dense" { 1000 } else { 560 },
                ..EngineOptions::single(context)
            };
            let model = Model::load(&backend, &source, &options, &mut |_| ())?;
            let mut engine = Engine::new(Arc::clone(&backend), Arc::new(model), policy, options)?;
            let sequence = engine.start();
            let prompt: Vec<u32> = (0..300).map(|index| index * 7 % 1000 + 20).collect();
            engine.prefill(sequence, &prompt, &mut |_| ())?;
            for token in [5, 6, 7] {
                engine.step(&[Feed {
                    sequence,
                    tokens: &[token],
                    wants: Wants::Logits,
                }])?;
            }
            let taken = backend.allocated();
            let apart = (taken as f64 / expected as f64 - 1.0).abs();
            ensure!(
                apart < 0.03 && taken <= 236 << 20,
                "{name}, {sequences} of {context}: {taken} bytes are taken, {expected} were planned"
            );
        }
    }
    let output = call(&["plan", "-m", file, "--memory", "5 parsecs"])?;
    ensure!(output.status.code() == Some(2));
    let tiny = json(&[
        "plan",
        "-m",
        file,
        "--memory",
        "1MiB",
        "--backend",
        "cpu",
        "--kv",
        "dense",
        "--json",
    ])?;
    ensure!(tiny["policies"][0]["context"] == 0, "{tiny}");
    Ok(())
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    let smallest = MODELS[0].fetch();
    for model in MODELS.iter().filter(|model| !model.on_demand) {
        for (backend, subject) in adapter::all() {
            let both = subject.and_then(|_| model.fetch());
            let title = format!("interfaces with {} on {backend}", model.alias);
            let model = *model;
            if model.alias == MODELS[0].alias {
                let title = format!("a seed repeats on {backend}");
                trials.push(trial::with(title, both.clone(), move |path| {
                    seeds(path, backend)
                }));
            }
            trials.push(trial::with(title, both, move |path| {
                interfaces(model, path, backend)
            }));
        }
    }
    trials.push(trial::with(
        "an answer in plain words",
        smallest.clone(),
        answer,
    ));
    trials.push(trial::with(
        "a codec from calibration to use",
        smallest.clone(),
        compression,
    ));
    trials.push(trial::with(
        "a conversation in a file",
        smallest.clone(),
        kept,
    ));
    trials.push(trial::with(
        "what is planned fits",
        smallest.clone(),
        planned,
    ));
    trials.push(trial::with("bad input is refused", smallest, refusals));
    trial::run(trials)
}
