//! Rung 4: `longwave eval`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use longwave_tests::model::MODELS;
use longwave_tests::program::{call, json};
use longwave_tests::trial;
use serde_json::Value;

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

/// The suites, haystacks and queries that [`questions`] asks for, in order.
const ENTRIES: [(&str, Option<&str>, &str); 5] = [
    ("niah", Some("repeat"), "known"),
    ("niah", Some("repeat"), "unknown"),
    ("niah", Some("book"), "unknown"),
    ("kvretrieval", None, "unknown"),
    ("tracking", Some("book"), "unknown"),
];

/// Questions come with their scores, their bytes and pictures, and dense attention does not differ from itself.
fn questions(path: PathBuf) -> Result<()> {
    let file = path.to_str().context("the model's path is not UTF-8")?;
    let folder = tempfile::tempdir()?;
    let plots = folder.path().to_str().context("the path is not UTF-8")?;
    let ask = |suites: &str, haystack: &str, queries: &str| {
        let found = json(&[
            "eval",
            "-m",
            file,
            "--backend",
            "cpu",
            "--suite",
            suites,
            "--haystack",
            haystack,
            "--query",
            queries,
            "--kv",
            "dense",
            "--kv",
            "omnikv:keep=8,sink=4,recent=8",
            "--context",
            "384",
            "--questions",
            "2",
            "--plot",
            plots,
            "--json",
        ])?;
        let entries = |policy: usize| found["policies"][policy]["suites"].as_array().cloned();
        let entries = [entries(0), entries(1)].map(Option::unwrap_or_default);
        anyhow::Ok((found, entries))
    };
    let (_, mut entries) = ask("niah", "repeat", "known,unknown")?;
    let (found, more) = ask("niah,kvretrieval,tracking", "book", "unknown")?;
    for (entries, more) in entries.iter_mut().zip(more) {
        entries.extend(more);
    }
    for policy in [0, 1] {
        ensure!(found["policies"][policy]["history_ratio"] == 1.0, "{found}");
        ensure!(found["policies"][policy]["kld_mean"].is_null(), "{found}");
        ensure!(entries[policy].len() == ENTRIES.len(), "{entries:?}");
        for (entry, (suite, haystack, query)) in entries[policy].iter().zip(ENTRIES) {
            ensure!(
                entry["suite"] == suite
                    && entry["haystack"].as_str() == haystack
                    && entry["query"] == query,
                "{entry}"
            );
            let figure = |key: &str| {
                entry[key]
                    .as_f64()
                    .with_context(|| format!("no {key} in {entry}"))
            };
            let (accuracy, dense) = (figure("accuracy")?, figure("dense")?);
            ensure!(
                (0.0..=100.0).contains(&accuracy) && (0.0..=100.0).contains(&dense),
                "{entry}"
            );
            ensure!(figure("difference")? == accuracy - dense, "{entry}");
            ensure!(
                figure("kv_ratio")? == 1.0 && figure("history_ratio")? == 1.0,
                "{entry}"
            );
            ensure!(
                figure("questions")? == if suite == "tracking" { 1.0 } else { 2.0 },
                "{entry}"
            );
            ensure!(
                entry["interval"]
                    .as_array()
                    .is_some_and(|ends| ends.len() == 2),
                "{entry}"
            );
            let depths = entry["depths"].as_array().into_iter().flatten();
            let questions: u64 = depths.filter_map(|depth| depth["questions"].as_u64()).sum();
            ensure!(
                questions == if suite == "tracking" { 0 } else { 2 },
                "{entry}"
            );
            if policy == 0 {
                let none =
                    figure("difference")? == 0.0 && figure("lost")? + figure("gained")? == 0.0;
                ensure!(
                    none && entry["interval"] == serde_json::json!([0.0, 0.0]),
                    "{entry}"
                );
                ensure!(figure("p_value")? == 1.0, "{entry}");
                ensure!(
                    entry["example"]["dense"] == entry["example"]["answer"],
                    "{entry}"
                );
            }
        }
    }
    let dense = |suite: &str| {
        let entries = entries[0].iter().filter(|entry| entry["suite"] == suite);
        entries
            .filter_map(|entry| entry["dense"].as_f64())
            .sum::<f64>()
    };
    ensure!(
        dense("niah") > 0.0,
        "the model finds no needle: {entries:?}"
    );
    let maps = [
        "needles-dense.png",
        "needles-1-dense.png",
        "needles-2-omnikv-keep-8-sink-4-recent-8.png",
    ];
    for name in maps {
        let (width, height) = png_size(&folder.path().join(name))?;
        // Two rows of 30 pixels below a heading, of the last run; eleven cells of 52.
        ensure!(
            height == 66 + 2 * 30 + 12 && width > 11 * 52,
            "{name}: {width} x {height}"
        );
    }
    let (width, height) = png_size(&folder.path().join("quality.png"))?;
    ensure!(
        (width, height) == (900, 512 + 2 * 18 + 8),
        "quality.png: {width} x {height}"
    );
    Ok(())
}

/// Width and height from the header of a PNG file.
fn png_size(path: &Path) -> Result<(u32, u32)> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).context("the file is too short")?;
        anyhow::Ok(u32::from_be_bytes(bytes.try_into()?))
    };
    ensure!(
        bytes.starts_with(b"\x89PNG\r\n"),
        "{} is no PNG",
        path.display()
    );
    Ok((number(16)?, number(20)?))
}

/// What cannot be done is refused at once: no weights are loaded for it.
fn refusals(path: PathBuf) -> Result<()> {
    let file = path.to_str().context("the model's path is not UTF-8")?;
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/ARCHITECTURE.md");
    let cases: [(&[&str], &str); 10] = [
        (&["--suite", "nonsense"], "nonsense"),
        (&["--suite", "kld"], "--text"),
        (&["--suite", "niah", "--context", "100"], "too short"),
        (
            &[
                "--suite",
                "kvretrieval",
                "--context",
                "400",
                "--questions",
                "50",
            ],
            "50 questions",
        ),
        (&["--suite", "niah", "--context", "8192"], "8192"),
        (
            &["--suite", "niah", "--plot", "/no/such/folder"],
            "/no/such/folder",
        ),
        (&["--suite", "niah", "--plot", file], "no such folder"),
        (
            &["--suite", "niah", "-o", "/no/such/folder/x.json"],
            "/no/such/folder/x.json",
        ),
        (&["--suite", "niah", "--haystack", "hay"], "hay"),
        (
            &[
                "--suite",
                "niah",
                "--context",
                "8000",
                "--haystack",
                "book",
                "--text",
                text,
            ],
            "sentences",
        ),
    ];
    for (arguments, expected) in cases {
        let all = [
            &["eval", "-m", file, "--backend", "cpu", "--kv", "dense"],
            arguments,
        ]
        .concat();
        let output = call(&all)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{arguments:?} succeeded");
        ensure!(
            errors.contains(expected),
            "{arguments:?}: {errors:?} does not say {expected:?}"
        );
        ensure!(!errors.contains("panicked"), "{arguments:?}: {errors}");
        ensure!(output.stdout.is_empty(), "{arguments:?} wrote to stdout");
    }
    Ok(())
}

fn main() -> ExitCode {
    let smallest = MODELS[0].fetch();
    trial::run(vec![
        trial::with(
            "policies are compared on a text",
            smallest.clone(),
            comparison,
        ),
        trial::with(
            "policies are compared by their answers",
            smallest.clone(),
            questions,
        ),
        trial::with("bad input is refused", smallest, refusals),
    ])
}
