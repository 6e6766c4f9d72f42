//! `bench compare`: how two recorded results differ.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use longwave_cli::output::{Output, one_line};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Compare results that were printed with `-o json` or `-o jsonl`.
#[derive(Args, Debug)]
pub struct CompareArguments {
    /// What is compared with
    pub before: PathBuf,
    /// What is compared
    pub after: PathBuf,
    /// Print one JSON object for each pair, in a list
    #[arg(long)]
    pub json: bool,
}

/// Recorded results are read whole, up to this many bytes.
const LARGEST: u64 = 256 << 20;

/// What is read of a result, of tokens or of an op.
#[derive(Clone, Debug, Deserialize)]
struct Recorded {
    model_type: String,
    #[serde(default)]
    weights: String,
    backend: String,
    #[serde(default)]
    kv: String,
    test: String,
    /// Of ops, only times are there.
    avg_ts: Option<f64>,
    stddev_ts: Option<f64>,
    avg_ns: f64,
    #[serde(default)]
    stddev_ns: f64,
}

impl Recorded {
    fn key(&self) -> [&str; 5] {
        [
            &self.model_type,
            &self.weights,
            &self.backend,
            &self.kv,
            &self.test,
        ]
    }

    /// Something a second, and its deviation.
    fn rate(&self) -> (f64, f64) {
        match self.avg_ts {
            Some(rate) => (rate, self.stddev_ts.unwrap_or(0.0)),
            None => {
                let rate = 1e9 / self.avg_ns;
                (rate, rate * self.stddev_ns / self.avg_ns)
            }
        }
    }
}

/// The same test in both results.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Pair {
    model_type: String,
    weights: String,
    backend: String,
    kv: String,
    test: String,
    before: f64,
    after: f64,
    /// The second over the first: above 1 is faster.
    ratio: f64,
    /// The deviation of the ratio that follows from those of both.
    spread: f64,
}

impl CompareArguments {
    /// Does it.
    ///
    /// # Errors
    /// A file cannot be read, or no test is in both.
    pub fn execute(&self) -> Result<ExitCode> {
        let (before, after) = (read(&self.before)?, read(&self.after)?);
        let pairs = pairs(&before, &after);
        ensure!(
            !pairs.is_empty(),
            "no test is in both {} and {}: model, weights, backend, kv and test must be the same",
            self.before.display(),
            self.after.display()
        );
        let mut output = Output::stdout();
        if self.json {
            output.json(&pairs)?;
            return Ok(ExitCode::SUCCESS);
        }
        output.text(&table(&pairs))?;
        let (first, second) = (before.len() - pairs.len(), after.len() - pairs.len());
        if first + second > 0 {
            output.line(format_args!(
                "\n{first} only in the first, {second} only in the second"
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read(path: &Path) -> Result<Vec<Recorded>> {
    let name = path.display();
    let about = std::fs::metadata(path).with_context(|| format!("{name} cannot be read"))?;
    ensure!(
        about.is_file() && about.len() <= LARGEST,
        "{name} is no file of up to {LARGEST} bytes"
    );
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{name} cannot be read as text"))?;
    let fault = || format!("{name} holds no results of bench");
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        match value.with_context(fault)? {
            Value::Array(list) => values.extend(list),
            value => values.push(value),
        }
    }
    let mut results: Vec<Recorded> = Vec::new();
    for value in values {
        let result: Recorded = serde_json::from_value(value).with_context(fault)?;
        let (rate, spread) = result.rate();
        ensure!(
            rate.is_finite() && rate > 0.0 && spread.is_finite() && spread >= 0.0,
            "{name}: {} has no speed",
            one_line(&result.test)
        );
        ensure!(
            results.iter().all(|known| known.key() != result.key()),
            "{name}: {} of {} on {} is there twice",
            one_line(&result.test),
            one_line(&result.model_type),
            one_line(&result.backend)
        );
        results.push(result);
    }
    Ok(results)
}

fn pairs(before: &[Recorded], after: &[Recorded]) -> Vec<Pair> {
    let pair = |after: &Recorded| {
        let before = before.iter().find(|before| before.key() == after.key())?;
        let ((first, a), (second, b)) = (before.rate(), after.rate());
        let ratio = second / first;
        Some(Pair {
            model_type: after.model_type.clone(),
            weights: after.weights.clone(),
            backend: after.backend.clone(),
            kv: after.kv.clone(),
            test: after.test.clone(),
            before: first,
            after: second,
            ratio,
            spread: ratio * (a / first).hypot(b / second),
        })
    };
    after.iter().filter_map(pair).collect()
}

fn table(pairs: &[Pair]) -> String {
    let mut text = String::from(
        "| model | backend | kv | test | before, 1/s | after, 1/s | ratio |\n| --- | --- | --- | --- | ---: | ---: | ---: |\n",
    );
    for pair in pairs {
        let [model, weights, backend, kv, test] = [
            &pair.model_type,
            &pair.weights,
            &pair.backend,
            &pair.kv,
            &pair.test,
        ]
        .map(|cell| one_line(cell).replace('|', "\\|"));
        text.push_str(&format!(
            "| {model} {weights} | {backend} | {kv} | {test} | {:.2} | {:.2} | {:.3} ± {:.3} |\n",
            pair.before, pair.after, pair.ratio, pair.spread
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(backend: &str, rate: Option<(f64, f64)>, ns: (f64, f64)) -> Recorded {
        Recorded {
            model_type: "m".into(),
            weights: "q4".into(),
            backend: backend.into(),
            kv: "dense".into(),
            test: "tg128".into(),
            avg_ts: rate.map(|rate| rate.0),
            stddev_ts: rate.map(|rate| rate.1),
            avg_ns: ns.0,
            stddev_ns: ns.1,
        }
    }

    #[test]
    fn ratios_come_with_the_spread_of_both() {
        let before = [result("cpu", Some((100.0, 3.0)), (1.0, 0.0))];
        let after = [
            result("wgpu", Some((1.0, 0.0)), (1.0, 0.0)),
            result("cpu", Some((200.0, 8.0)), (1.0, 0.0)),
        ];
        let pairs = pairs(&before, &after);
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].ratio, 2.0);
        assert!((pairs[0].spread - 0.1).abs() < 1e-12);
        assert!(
            table(&pairs)
                .contains("| m q4 | cpu | dense | tg128 | 100.00 | 200.00 | 2.000 ± 0.100 |")
        );
    }

    #[test]
    fn ops_are_compared_by_their_times() {
        let (before, after) = (
            [result("cpu", None, (200.0, 2.0))],
            [result("cpu", None, (100.0, 0.0))],
        );
        let pairs = pairs(&before, &after);
        assert!((pairs[0].ratio - 2.0).abs() < 1e-12);
        assert!((pairs[0].spread - 0.02).abs() < 1e-12);
    }
}
