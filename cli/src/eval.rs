//! `longwave eval`: how far policies are from dense attention.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use longwave_contract::Backend;
use longwave_runtime::engine::{Engine, EngineOptions, Feed};
use longwave_runtime::eval::{Comparison, ComparisonSummary, windows};
use longwave_runtime::kv::SequenceId;
use longwave_runtime::model::Model;
use longwave_runtime::policy::Budget;
use serde::Serialize;

use crate::args::{DeviceArguments, ModelArguments};
use crate::backend::Choice;
use crate::kv::KvPolicy;
use crate::model::{self, Opened};
use crate::output::{Notes, Output};
use crate::progress::count_bar;
use crate::report::dense_bytes;

/// Compare policies with dense attention on the same text.
///
/// Each window of the text is taken in up to its last tokens, which are then predicted one by one, dense and by every policy, with the text's
/// own tokens as input.
#[derive(Args, Debug)]
pub struct EvalArguments {
    /// The model
    #[command(flatten)]
    pub model: ModelArguments,
    /// A policy to compare, as for `run`; may be given several times
    #[arg(long, required = true, value_name = "POLICY")]
    pub kv: Vec<KvPolicy>,
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kld,ppl",
        value_name = "NAMES"
    )]
    pub suite: Vec<Suite>,
    /// A text to predict; may be given several times
    #[arg(long, required = true, value_name = "FILE")]
    pub text: Vec<PathBuf>,
    /// Tokens of a window before those that are predicted
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: u32,
    /// Tokens of a window that are predicted
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub predict: u32,
    /// Windows of the text
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Shifts the windows
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// The device
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Write the result to a file as JSON
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the result as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Divergence of the next-token distribution, and how often the likeliest token is the same
    Kld,
    /// Perplexity of the text
    Ppl,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Report {
    model: String,
    backend: &'static str,
    device: String,
    text: Vec<String>,
    context: u32,
    predict: u32,
    samples: u32,
    seed: u64,
    policies: Vec<PolicyReport>,
}

/// One policy. Figures of suites that were not asked for are left out, but that `kld` gives the perplexities too.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct PolicyReport {
    policy: String,
    /// Bytes that the sequence holds over those of the pages of a dense cache.
    kv_ratio: f64,
    /// The same for the history alone: everything but the first 8 and the last 128 tokens.
    history_ratio: f64,
    tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    kld_mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kld_median: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kld_p99: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kld_max: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top1: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ppl: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ppl_dense: Option<f64>,
    /// Standard error of `ln(ppl / ppl_dense)`, paired by token.
    #[serde(skip_serializing_if = "Option::is_none")]
    ppl_log_ratio_error: Option<f64>,
}

/// A policy under comparison.
struct Subject {
    name: String,
    engine: Engine,
    comparison: Comparison,
    kv_ratio: f64,
    history_ratio: f64,
}

impl EvalArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model, a policy, a text or the device cannot be used, or the text is too short.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let choice = Choice::by(&self.device)?;
        let opened = model::open(&self.model, notes)?;
        let config = opened.source.config();
        let length = self.context.saturating_add(self.predict);
        ensure!(
            length <= config.context,
            "--context {} and --predict {} are beyond the model's context of {} tokens",
            self.context,
            self.predict,
            config.context
        );
        for kv in &self.kv {
            kv.policy(config.layers)?;
        }
        if let Some(path) = &self.output {
            // Before hours of work, not after.
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            ensure!(
                folder.is_dir(),
                "{} cannot be written: there is no such folder",
                path.display()
            );
        }
        let tokens = self.tokens(&opened)?;
        let windows = windows(
            tokens.len(),
            length as usize,
            self.samples as usize,
            self.seed,
        )?;

        let backend = choice.open(notes)?;
        let options = EngineOptions {
            engines: self.kv.len() as u32 + 1,
            ..EngineOptions::single(length)
        };
        let model = opened.load(&backend, &options, notes)?;
        let engine = |kv: &KvPolicy| -> Result<Engine> {
            make(&backend, &model, kv, config.layers, options.clone())
        };
        let mut dense = engine(&KvPolicy::Dense)?;
        let mut subjects = Vec::new();
        for kv in &self.kv {
            subjects.push(Subject {
                name: kv.to_string(),
                engine: engine(kv)?,
                comparison: Comparison::default(),
                kv_ratio: 0.0,
                history_ratio: 0.0,
            });
        }
        let bar = count_bar(
            notes,
            "evaluating",
            u64::from(length) * windows.len() as u64,
        );
        for window in windows {
            let (prompt, rest) = tokens[window].split_at(self.context as usize);
            let outcome = compare(&mut dense, &mut subjects, prompt, rest, &mut |done| {
                bar.inc(done);
            });
            if outcome.is_err() {
                bar.finish_and_clear();
            }
            outcome?;
        }
        bar.finish_and_clear();
        let report = self.report(&opened, &*backend, &subjects)?;
        let mut output = Output::stdout();
        if self.json {
            output.json(&report)?;
        } else {
            output.text(&report.table())?;
        }
        if let Some(path) = &self.output {
            let text = serde_json::to_string_pretty(&report)? + "\n";
            std::fs::write(path, text)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// All texts as tokens, one after another.
    fn tokens(&self, opened: &Opened) -> Result<Vec<u32>> {
        let tokenizer = opened.source.tokenizer()?;
        let mut tokens = Vec::new();
        for path in &self.text {
            let read = |path: &Path| std::fs::read_to_string(path);
            let text =
                read(path).with_context(|| format!("{} cannot be read as text", path.display()))?;
            let encoded = tokenizer.encode(&text, false, false);
            tokens.extend(encoded.with_context(|| path.display().to_string())?);
        }
        opened.check_tokens(&tokens)?;
        Ok(tokens)
    }

    fn report(
        &self,
        opened: &Opened,
        backend: &dyn Backend,
        subjects: &[Subject],
    ) -> Result<Report> {
        let policies = subjects.iter().map(|subject| {
            let summary = subject.comparison.summary();
            let summary = summary.context("nothing was compared")?;
            Ok(PolicyReport {
                policy: subject.name.clone(),
                kv_ratio: subject.kv_ratio,
                history_ratio: subject.history_ratio,
                ..PolicyReport::of(summary, &self.suite)
            })
        });
        Ok(Report {
            model: opened.name.clone(),
            backend: backend.caps().backend,
            device: backend.caps().device.clone(),
            // Names alone: where a file lies says nothing about the result.
            text: self
                .text
                .iter()
                .map(|path| path.file_name().unwrap_or_default())
                .map(|name| name.to_string_lossy().into_owned())
                .collect(),
            context: self.context,
            predict: self.predict,
            samples: self.samples,
            seed: self.seed,
            policies: policies.collect::<Result<_>>()?,
        })
    }
}

fn make(
    backend: &Arc<dyn Backend>,
    model: &Arc<Model>,
    kv: &KvPolicy,
    layers: u32,
    options: EngineOptions,
) -> Result<Engine> {
    let (backend, model) = (Arc::clone(backend), Arc::clone(model));
    Ok(Engine::new(backend, model, kv.policy(layers)?, options)?)
}

/// Takes a window in on all engines and compares their predictions token by token.
fn compare(
    dense: &mut Engine,
    subjects: &mut [Subject],
    prompt: &[u32],
    rest: &[u32],
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let begin = |engine: &mut Engine| -> Result<(SequenceId, Vec<f32>)> {
        let sequence = engine.start();
        let logits = engine.prefill(sequence, prompt, &mut |_| ())?;
        Ok((sequence, logits))
    };
    let (sequence, mut expected) = begin(dense)?;
    let begun = subjects
        .iter_mut()
        .map(|subject| begin(&mut subject.engine));
    let mut states = begun.collect::<Result<Vec<_>>>()?;
    progress(prompt.len() as u64);
    for &token in rest {
        // The next step is a decode step on all engines, the first prediction comes with the prompt.
        for (subject, (_, logits)) in subjects.iter_mut().zip(&states) {
            subject.comparison.add(&expected, logits, token)?;
        }
        let step = |engine: &mut Engine, sequence| -> Result<Vec<f32>> {
            let feed = Feed {
                sequence,
                tokens: &[token],
                logits: true,
            };
            engine.step(&[feed])?.pop().context("there are no logits")
        };
        expected = step(dense, sequence)?;
        for (subject, (sequence, logits)) in subjects.iter_mut().zip(&mut states) {
            *logits = step(&mut subject.engine, *sequence)?;
        }
        progress(1);
    }
    dense.end(sequence);
    for (subject, (sequence, _)) in subjects.iter_mut().zip(states) {
        subject.measure(sequence)?;
        subject.engine.end(sequence);
    }
    Ok(())
}

impl Subject {
    /// Notes what the sequence holds.
    fn measure(&mut self, sequence: SequenceId) -> Result<()> {
        let engine = &self.engine;
        let token = engine.model().config().dense_bytes_per_token();
        let length = engine.sequence(sequence)?.len();
        let ratio = |bytes: u64, dense: u64| bytes as f64 / dense as f64;
        self.kv_ratio = ratio(
            engine.kv_bytes(sequence)?,
            dense_bytes(length as usize, token),
        );
        let pick = Budget::default().pick(0, length);
        let history = pick.first..pick.first + pick.candidates;
        self.history_ratio = match pick.candidates {
            0 => self.kv_ratio,
            tokens => ratio(
                engine.stored_bytes(sequence, history)?,
                u64::from(tokens) * token,
            ),
        };
        Ok(())
    }
}

impl PolicyReport {
    /// The figures that the suites ask for; the rest is for the caller to fill in.
    fn of(summary: ComparisonSummary, suites: &[Suite]) -> Self {
        let kld = |value: f64| suites.contains(&Suite::Kld).then_some(value);
        let ppl = |value: f64| suites.contains(&Suite::Ppl).then_some(value);
        let either = |value: f64| kld(value).or(ppl(value));
        PolicyReport {
            tokens: summary.tokens,
            kld_mean: kld(summary.kld_mean),
            kld_median: kld(summary.kld_median),
            kld_p99: kld(summary.kld_p99),
            kld_max: kld(summary.kld_max),
            top1: kld(summary.top1),
            ppl: either(summary.ppl),
            ppl_dense: either(summary.ppl_dense),
            ppl_log_ratio_error: either(summary.loss_difference_error),
            ..PolicyReport::default()
        }
    }
}

impl Report {
    fn table(&self) -> String {
        let header = [
            "policy", "kv", "history", "KLD", "median", "99 %", "max", "top-1", "ppl", "dense",
            "change",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        for policy in &self.policies {
            let share = |value: f64| format!("{:.1} %", 100.0 * value);
            let small =
                |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.5}"));
            let plain =
                |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
            let change = match (policy.ppl, policy.ppl_dense, policy.ppl_log_ratio_error) {
                (Some(ppl), Some(dense), Some(error)) => {
                    format!(
                        "{:+.2} ± {:.2} %",
                        100.0 * (ppl / dense - 1.0),
                        100.0 * error
                    )
                }
                _ => "-".into(),
            };
            rows.push([
                policy.policy.clone(),
                share(policy.kv_ratio),
                share(policy.history_ratio),
                small(policy.kld_mean),
                small(policy.kld_median),
                small(policy.kld_p99),
                small(policy.kld_max),
                policy.top1.map_or("-".into(), share),
                plain(policy.ppl),
                plain(policy.ppl_dense),
                change,
            ]);
        }
        let width = |col: usize| {
            rows.iter()
                .map(|row| row[col].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        let mut text = format!(
            "{}, {} tokens predicted after {} in {} of {}\n",
            self.model,
            self.predict,
            self.context,
            crate::report::count(self.samples as usize, "window"),
            self.text.join(", ")
        );
        for row in rows {
            let cells = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(col, (cell, width))| {
                    if col == 0 {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                });
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(suite: &[Suite]) -> PolicyReport {
        let summary = ComparisonSummary {
            tokens: 256,
            kld_mean: 0.001,
            kld_median: 0.0005,
            kld_p99: 0.01,
            kld_max: 0.02,
            top1: 0.99,
            ppl: 10.1,
            ppl_dense: 10.0,
            loss_difference: 0.00995,
            loss_difference_error: 0.001,
        };
        PolicyReport {
            policy: "p".into(),
            kv_ratio: 1.01,
            history_ratio: 0.29,
            ..PolicyReport::of(summary, suite)
        }
    }

    #[test]
    fn a_table_shows_what_was_measured() {
        let report = Report {
            model: "m".into(),
            backend: "cpu",
            device: "d".into(),
            text: vec!["t.txt".into()],
            context: 100,
            predict: 256,
            samples: 1,
            seed: 0,
            policies: vec![report(&[Suite::Kld]), report(&[Suite::Ppl])],
        };
        let json = serde_json::to_value(&report).expect("it is plain data");
        let first = &json["policies"][0];
        for key in [
            "policy",
            "kv_ratio",
            "history_ratio",
            "kld_mean",
            "kld_p99",
            "top1",
            "ppl",
            "ppl_dense",
        ] {
            assert!(!first[key].is_null(), "{key}");
        }
        assert!(json["policies"][1]["kld_mean"].is_null());
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(
            lines[2].contains("29.0 %") && lines[2].contains("0.00100"),
            "{table}"
        );
        assert!(
            lines[3].contains("+1.00 ± 0.10 %") && lines[3].contains(" - "),
            "{table}"
        );
    }
}
