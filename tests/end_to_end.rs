//! Rung 4: the program, as users and other programs call it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use anyhow::{Context, Result, ensure};
use longwave_tests::adapter;
use longwave_tests::golden::Golden;
use longwave_tests::model::{MODELS, TestModel};
use longwave_tests::trial;
use serde_json::Value;

const TOLERANCE: f32 = 0.05;

/// The program beside this test, which `tests/run` builds.
fn program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("the test lies in no build folder")?;
    let program = folder.join(format!("longwave{}", std::env::consts::EXE_SUFFIX));
    ensure!(
        program.is_file(),
        "{} is not there: run `cargo build --release -p longwave` first",
        program.display()
    );
    Ok(program)
}

fn call(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(program()?).args(arguments).output()?)
}

fn json(arguments: &[&str]) -> Result<Value> {
    let output = call(arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "{arguments:?}: {:?}",
            String::from_utf8_lossy(&output.stdout)
        )
    })
}

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

/// Dense attention is no distance from itself, a small budget is some, and both come with their bytes.
fn comparison(path: PathBuf) -> Result<()> {
    let file = path.to_str().context("the model's path is not UTF-8")?;
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/ARCHITECTURE.md");
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("eval.json");
    let output = output.to_str().context("the temporary path is not UTF-8")?;
    let mut arguments = vec![
        "eval",
        "-m",
        file,
        "--backend",
        "cpu",
        "--text",
        text,
        "-o",
        output,
        "--json",
    ];
    arguments.extend([
        "--kv",
        "dense",
        "--kv",
        "omnikv:keep=20,recent=16",
        "--suite",
        "kld",
    ]);
    arguments.extend(["--context", "200", "--predict", "24", "--samples", "2"]);
    let found = json(&arguments)?;
    let written: Value = serde_json::from_slice(&std::fs::read(output)?)?;
    ensure!(found == written, "the file holds something else");
    let figure = |policy: usize, key: &str| {
        let value = found["policies"][policy][key].as_f64();
        value.with_context(|| format!("no {key} of policy {policy}"))
    };
    ensure!(
        figure(0, "kld_mean")? == 0.0 && figure(0, "top1")? == 1.0,
        "{found}"
    );
    ensure!(figure(0, "ppl")? == figure(0, "ppl_dense")?, "{found}");
    let distance = figure(1, "kld_mean")?;
    ensure!(
        distance > 0.001 && distance < 1.0 && figure(1, "kld_p99")? >= distance,
        "{found}"
    );
    for policy in [0, 1] {
        // Nothing is compressed.
        ensure!(figure(policy, "history_ratio")? == 1.0, "{found}");
        ensure!(figure(policy, "kv_ratio")? == 1.0, "{found}");
    }
    let short = [
        "eval",
        "-m",
        file,
        "--backend",
        "cpu",
        "--text",
        text,
        "--kv",
        "dense",
        "--context",
        "8000",
        "--predict",
        "190",
    ];
    let output = call(&short)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && errors.contains("8190"),
        "{errors}"
    );
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

fn main() -> ExitCode {
    let mut trials = Vec::new();
    let smallest = MODELS[0].fetch();
    for model in MODELS.iter().filter(|model| !model.on_demand) {
        for backend in ["cpu", "wgpu"] {
            let subject = if backend == "wgpu" {
                adapter::wgpu().map(|_| ())
            } else {
                Ok(())
            };
            let both = subject.and_then(|()| model.fetch());
            let title = format!("interfaces with {} on {backend}", model.alias);
            let model = *model;
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
        "policies are compared",
        smallest.clone(),
        comparison,
    ));
    trials.push(trial::with("bad input is refused", smallest, refusals));
    trial::run(trials)
}
