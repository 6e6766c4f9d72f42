//! The bench program as a shell sees it, on the processor with a tiny shape: fields, tables, comparisons, and what is refused.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const SHAPE: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 128, "max_position_embeddings": 256, "num_key_value_heads": 1}"#;

fn bench(folder: &Path, arguments: &[&str]) -> Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(arguments)
        .current_dir(folder)
        .env("LONGWAVE_OFFLINE", "1")
        .env("XDG_CACHE_HOME", folder)
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .stdin(Stdio::null())
        .output()
        .context("it cannot be called")
}

/// What it prints.
fn text(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = bench(folder, arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

/// A folder with a shape.
fn folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("tiny.json"), SHAPE)?;
    Ok(folder)
}

fn number(result: &Value, field: &str) -> Result<f64> {
    let number = result[field].as_f64();
    number.with_context(|| format!("{field} is {}", result[field]))
}

#[test]
fn tokens_are_measured_recorded_compared_and_drawn() -> Result<()> {
    let folder = folder()?;
    let at = folder.path();
    let line = "--shape tiny.json --weights q4 --backends cpu -p 8,40 -n 130 -d 0,300 -r 2 --kv dense --kv q8 --kv omnikv:keep=16 --plot . --profile -o json";
    let arguments: Vec<&str> = line.split(' ').collect();
    let json = text(at, &arguments)?;
    std::fs::write(at.join("a.json"), &json)?;
    let results: Vec<Value> = serde_json::from_str(&json)?;
    let tests: Vec<&str> = results
        .iter()
        .filter_map(|result| result["test"].as_str())
        .collect();
    let expected = ["pp8", "pp40", "tg130", "tg130 @ d300"].map(|test| [test; 3]);
    ensure!(tests == expected.concat(), "{tests:?}");
    for result in &results {
        ensure!(result["model_type"] == "tiny" && result["weights"] == "q4");
        ensure!(result["backend"] == "cpu" && result["random"] == true);
        for field in ["build_commit", "device", "driver", "kv"] {
            ensure!(
                result[field].as_str().is_some_and(|text| !text.is_empty()),
                "{field}"
            );
        }
        for field in [
            "model_size",
            "model_n_params",
            "avg_ns",
            "avg_ts",
            "flops_per_token",
            "ceiling_percent",
            "kv_bytes",
            "test_time",
        ] {
            ensure!(number(result, field)? > 0.0, "{field}");
        }
        ensure!(number(result, "peak_bytes")? > number(result, "model_size")?);
        ensure!(
            result["samples_ns"]
                .as_array()
                .is_some_and(|samples| samples.len() == 2)
        );
        ensure!(number(&result["ceiling"], "bandwidth")? > 1e8);
        ensure!(number(&result["ceiling"], "flops")? > 1e8);
        let generates = number(result, "n_gen")? > 0.0;
        ensure!(result["bytes_per_token"].is_number() == generates);
        let compresses = result["kv"].as_str().unwrap_or("").starts_with("q8");
        let profile = result["profile"].as_array().context("it is profiled")?;
        let has = |op: &str| profile.iter().any(|found| found["op"] == op);
        // Short prompts leave nothing to compress, but are taken in layer by layer all the same. What is compressed is read as it is stored.
        let stored = compresses && generates;
        ensure!(has("attend") != stored, "{}", result["test"]);
        ensure!(has("attend_stored") == stored, "{}", result["test"]);
    }
    // The cache is shorter where it is compressed, and what is read of it where it is chosen.
    let deep = |kv: &str, field: &str| -> Result<f64> {
        let deep = results.iter().filter(|result| result["n_depth"] == 300);
        let found = deep
            .clone()
            .find(|result| result["kv"].as_str().unwrap_or("").starts_with(kv));
        number(found.context("it was measured")?, field)
    };
    ensure!(deep("dense", "kv_bytes")? > 0.0);
    ensure!(deep("omnikv", "kv_bytes")? == deep("dense", "kv_bytes")?);
    for name in ["prefill.png", "decode.png"] {
        let picture = std::fs::read(at.join(name))?;
        ensure!(picture.starts_with(b"\x89PNG"), "{name}");
    }

    let same = text(at, &["compare", "a.json", "a.json", "--json"])?;
    let pairs: Vec<Value> = serde_json::from_str(&same)?;
    ensure!(pairs.len() == results.len());
    for pair in &pairs {
        ensure!(pair["ratio"] == 1.0 && number(pair, "spread")? >= 0.0);
    }
    let table = text(at, &["compare", "a.json", "a.json"])?;
    ensure!(table.contains("1.000 ±"), "{table}");
    Ok(())
}

#[test]
fn tables_name_what_they_show() -> Result<()> {
    let folder = folder()?;
    let at = folder.path();
    let arguments = |format| {
        let line = "--shape tiny.json --backends cpu -p 4 -n 2 -r 1 --profile";
        let mut arguments: Vec<&str> = line.split(' ').collect();
        arguments.extend(["-o", format]);
        arguments
    };
    let markdown = text(at, &arguments("md"))?;
    for expected in [
        "| model | size |",
        "| ---: |",
        "| pp4 |",
        "| tg2 |",
        "tiny f16, random",
        "reached at best",
        "build: ",
        "| qkv_rope_append |",
    ] {
        ensure!(markdown.contains(expected), "{expected}: {markdown}");
    }
    let values = text(at, &arguments("csv"))?;
    ensure!(
        values.lines().count() == 3
            && values.starts_with("build_commit,")
            && values.contains(",ceiling.flops,")
            && values.contains(",tg2,"),
        "{values}"
    );
    let lines = text(at, &arguments("jsonl"))?;
    ensure!(lines.lines().count() == 2, "{lines}");
    std::fs::write(at.join("a.jsonl"), &lines)?;
    let table = text(at, &["compare", "a.jsonl", "a.jsonl"])?;
    ensure!(table.contains("tg2"), "{table}");
    Ok(())
}

#[test]
fn ops_are_measured_one_by_one() -> Result<()> {
    let folder = folder()?;
    let line = "ops --shape tiny.json --weights q8 --backends cpu --op attend,linear_add --rows 1,3 -d 64 -r 2 -o json";
    let json = text(folder.path(), &line.split(' ').collect::<Vec<_>>())?;
    let results: Vec<Value> = serde_json::from_str(&json)?;
    let tests: Vec<&str> = results
        .iter()
        .filter_map(|result| result["test"].as_str())
        .collect();
    let expected = [
        "attend 1 over 64",
        "attend 3 over 64",
        "linear_add 1 x 64 x 64",
        "linear_add 3 x 64 x 64",
        "linear_add 1 x 96 x 64",
        "linear_add 3 x 96 x 64",
    ];
    ensure!(tests == expected, "{tests:?}");
    for result in &results {
        ensure!(
            result["parity"].is_null(),
            "the reference is not held against itself"
        );
        for field in [
            "avg_ns",
            "bytes",
            "flops",
            "bytes_per_second",
            "ceiling_percent",
        ] {
            ensure!(number(result, field)? > 0.0, "{field}");
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_refused() -> Result<()> {
    let folder = folder()?;
    let at = folder.path();
    std::fs::write(at.join("broken.json"), "{")?;
    std::fs::write(at.join("wide.json"), SHAPE.replace("64", "63"))?;
    std::fs::write(at.join("other.json"), "[{\"model_type\": 1}]")?;
    std::fs::write(at.join("empty.json"), "[]")?;
    for (line, code, expected) in [
        ("--backends abacus", 2, "abacus"),
        ("--kv nonsense", 2, "nonsense"),
        ("-p x", 2, "x"),
        ("-r 0", 2, "0"),
        ("-o xml", 2, "xml"),
        ("--weights q3 --shape tiny.json", 2, "q3"),
        ("--shape no-such-shape --backends cpu", 1, "llama-3.1-8b"),
        ("--shape broken.json --backends cpu", 1, "broken.json"),
        ("--shape wide.json --backends cpu", 1, "31"),
        ("--shape tiny.json --backends cpu -p 0 -n 0", 1, "nothing"),
        (
            "--shape tiny.json --backends cpu --device gpu",
            1,
            "--device gpu",
        ),
        (
            "--shape tiny.json --backends cpu --plot no/such",
            1,
            "no/such",
        ),
        (
            "--shape tiny.json --backends cpu -n 4294967295",
            1,
            "too long",
        ),
        (
            "--shape tiny.json --backends cpu --kv omnikv:full=7",
            1,
            "layer",
        ),
        ("-m no/such.gguf --backends cpu", 1, "no/such.gguf"),
        ("ops --op no_such_op --backends cpu", 2, "no_such_op"),
        ("compare a.json", 2, "AFTER"),
        ("compare no-such.json tiny.json", 1, "no-such.json"),
        (
            "compare tiny.json tiny.json",
            1,
            "tiny.json holds no results",
        ),
        ("compare other.json other.json", 1, "other.json"),
        ("compare empty.json empty.json", 1, "no test"),
    ] {
        let output = bench(at, &line.split(' ').collect::<Vec<_>>())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code), "{line}: {errors}");
        ensure!(errors.contains(expected), "{line}: {errors}");
        ensure!(output.stdout.is_empty(), "{line} printed results");
    }
    Ok(())
}
