//! `longwave trace`: the same step on two backends, op by op, until one disagrees.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use longwave_contract::{Divergence, Op, Trace, first_divergence};
use longwave_runtime::engine::{Engine, EngineOptions, Feed, Wants};
use longwave_runtime::kv::SequenceId;
use serde::Serialize;

use crate::args::{ModelArguments, TokenList};
use crate::backend::{BackendName, Choice};
use crate::kv::KvPolicy;
use crate::output::{Notes, Output, one_line};
use crate::report::count;
use crate::{context, model};

/// Find the first op at which two backends disagree.
///
/// All tokens but the last are one step, the last is another: matrices and attention have different kernels for many rows and for one.
/// After each op the reference's results replace the other's, so a disagreement is found where it arises. The exit code is 1 when there
/// is one.
#[derive(Args, Debug)]
pub struct TraceArguments {
    /// The model
    #[command(flatten)]
    pub model: ModelArguments,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", required = true, value_parser = TokenList::parse, allow_hyphen_values = true)]
    pub tokens: TokenList,
    /// The backend that is right
    #[arg(long, value_enum, value_name = "NAME", default_value_t = BackendName::Cpu)]
    pub reference: BackendName,
    /// The backend that is held against it
    #[arg(long, value_enum, value_name = "NAME", default_value_t = BackendName::Wgpu)]
    pub backend: BackendName,
    /// The device of --backend, as `longwave devices` lists them
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub device: Option<String>,
    /// What the cache keeps and attention reads, as for `run`
    #[arg(long, default_value_t, value_name = "POLICY")]
    pub kv: KvPolicy,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How closely all outputs of one op in one step agreed.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct OpReport {
    op: &'static str,
    operand: &'static str,
    /// How many outputs were compared.
    compared: usize,
    /// The largest difference, as a share of what is allowed.
    worst_share: f32,
}

/// Where two backends part.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Parting {
    /// Index of the op in the step.
    index: usize,
    op: &'static str,
    operand: &'static str,
    row: usize,
    col: usize,
    expected: f32,
    found: f32,
    /// `None` for what is not a number.
    share: Option<f32>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct StepReport {
    step: String,
    ops: Vec<OpReport>,
    divergence: Option<Parting>,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Report {
    model: String,
    reference: String,
    subject: String,
    steps: Vec<StepReport>,
    diverged: bool,
}

impl TraceArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model or a device cannot be used, or a token does not exist. A divergence is no error, but exit code 1.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let reference = Choice::of(self.reference, None)?;
        let subject = Choice::of(self.backend, self.device.as_deref())?;
        let opened = model::open(&self.model, notes)?;
        let TokenList(tokens) = &self.tokens;
        opened.check_tokens(tokens)?;
        let context = context::of_tokens(tokens.len(), opened.source.config().context)?;
        let options = EngineOptions {
            chunk: context,
            ..EngineOptions::single(context)
        };
        let mut left = Side::new(opened.engine(
            &reference.open(notes)?,
            &self.kv,
            &[],
            options.clone(),
            notes,
        )?);
        let mut right =
            Side::new(opened.engine(&subject.open(notes)?, &self.kv, &[], options, notes)?);
        let (prompt, last) = tokens.split_at(tokens.len().saturating_sub(1));
        let (mut steps, mut diverged) = (Vec::new(), false);
        for step in [prompt, last].into_iter().filter(|step| !step.is_empty()) {
            let label = format!(
                "{} after {}",
                count(step.len(), "row"),
                count(left.length()? as usize, "token")
            );
            let report;
            (report, diverged) = compare(&mut left, &mut right, step, label)?;
            steps.push(report);
            if diverged {
                break;
            }
        }
        let report = Report {
            model: opened.name,
            reference: left.device(),
            subject: right.device(),
            steps,
            diverged,
        };
        let mut output = Output::stdout();
        if self.json {
            output.json(&report)?;
        } else {
            output.text(&report.text())?;
        }
        Ok(if diverged {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

/// One of the two engines.
struct Side {
    engine: Engine,
    sequence: SequenceId,
}

impl Side {
    fn new(mut engine: Engine) -> Self {
        let sequence = engine.start();
        Side { engine, sequence }
    }

    fn feed<'t>(&self, tokens: &'t [u32]) -> Feed<'t> {
        Feed {
            sequence: self.sequence,
            tokens,
            wants: Wants::Logits,
        }
    }

    fn length(&self) -> Result<u32> {
        Ok(self.engine.sequence(self.sequence)?.len())
    }

    fn device(&self) -> String {
        let caps = self.engine.backend().caps();
        format!("{}: {}", caps.backend, one_line(&caps.device))
    }
}

/// Compares one step and then takes it on both sides.
fn compare(
    left: &mut Side,
    right: &mut Side,
    tokens: &[u32],
    step: String,
) -> Result<(StepReport, bool)> {
    let (a, b) = (left.feed(tokens), right.feed(tokens));
    let recordings = (left.engine.stage(&[a])?, right.engine.stage(&[b])?);
    let divergence = first_divergence(
        Trace {
            backend: &**left.engine.backend(),
            recording: &recordings.0,
        },
        Trace {
            backend: &**right.engine.backend(),
            recording: &recordings.1,
        },
    )?;
    ensure!(
        !divergence.agreements.is_empty(),
        "{step}: there was nothing to compare"
    );
    let diverged = divergence.diverged;
    let report = StepReport::new(step, &divergence);
    if !diverged {
        left.engine.step(&[a])?;
        right.engine.step(&[b])?;
    }
    Ok((report, diverged))
}

impl StepReport {
    fn new(step: String, divergence: &Divergence) -> Self {
        let mut ops: Vec<OpReport> = Vec::new();
        for agreement in &divergence.agreements {
            let share = agreement.worst.map_or(0.0, |worst| worst.share);
            match ops
                .iter_mut()
                .find(|known| (known.op, known.operand) == (agreement.op, agreement.operand))
            {
                Some(known) => {
                    known.compared += 1;
                    known.worst_share = known.worst_share.max(share);
                }
                None => ops.push(OpReport {
                    op: agreement.op,
                    operand: agreement.operand,
                    compared: 1,
                    worst_share: share,
                }),
            }
        }
        // The closed list's order, in which a layer runs them.
        ops.sort_by_key(|report| Op::NAMES.iter().position(|name| *name == report.op));
        let last = divergence.agreements.last().filter(|_| divergence.diverged);
        let divergence = last.and_then(|agreement| {
            let worst = agreement.worst?;
            Some(Parting {
                index: agreement.index,
                op: agreement.op,
                operand: agreement.operand,
                row: worst.row,
                col: worst.col,
                expected: worst.expected,
                found: worst.found,
                share: worst.share.is_finite().then_some(worst.share),
            })
        });
        StepReport {
            step,
            ops,
            divergence,
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("reference  {}", self.reference),
            format!("subject    {}", self.subject),
        ];
        for step in &self.steps {
            lines.push(step.step.clone());
            for op in &step.ops {
                let name = format!("{}.{}", op.op, op.operand);
                lines.push(format!(
                    "  {name:<24} {:>4} compared, worst difference {:>6.1} % of the tolerance",
                    op.compared,
                    op.worst_share * 100.0
                ));
            }
            if let Some(parting) = &step.divergence {
                lines.push(format!(
                    "  op {} ({}) is the first to diverge: {}[{}, {}] is {}, expected {}{}",
                    parting.index,
                    parting.op,
                    parting.operand,
                    parting.row,
                    parting.col,
                    parting.found,
                    parting.expected,
                    parting
                        .share
                        .map(|share| format!(", {share:.1} times the tolerance"))
                        .unwrap_or_default(),
                ));
            }
        }
        lines.push(if self.diverged {
            "the backends diverge".into()
        } else {
            "the backends agree".into()
        });
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use longwave_contract::{Agreement, Excess};

    use super::*;

    fn agreement(index: usize, op: &'static str, share: Option<f32>) -> Agreement {
        let worst = share.map(|share| Excess {
            row: 1,
            col: 2,
            expected: 0.5,
            found: 0.75,
            share,
        });
        Agreement {
            index,
            op,
            operand: "out",
            worst,
        }
    }

    fn divergence(last: f32) -> Divergence {
        let agreements = vec![
            agreement(0, "embed", Some(0.0)),
            agreement(1, "attend", Some(0.25)),
            agreement(2, "linear_add", None),
            agreement(3, "attend", Some(last)),
        ];
        Divergence {
            agreements,
            diverged: last > 1.0,
        }
    }

    fn report(last: f32) -> Report {
        let steps = vec![StepReport::new("3 rows".into(), &divergence(last))];
        let diverged = steps[0].divergence.is_some();
        Report {
            model: "m".into(),
            reference: "cpu: a".into(),
            subject: "wgpu: b".into(),
            steps,
            diverged,
        }
    }

    #[test]
    fn agreements_are_summed_up_by_op() {
        let ops = report(0.5).steps.remove(0).ops;
        let summary: Vec<_> = ops
            .iter()
            .map(|op| (op.op, op.compared, op.worst_share))
            .collect();
        assert_eq!(
            summary,
            [
                ("embed", 1, 0.0),
                ("attend", 2, 0.5),
                ("linear_add", 1, 0.0)
            ]
        );
        assert!(report(0.5).text().ends_with("the backends agree\n"));
    }

    #[test]
    fn the_first_divergence_is_named() -> Result<()> {
        let report = report(2.5);
        let parting = report.steps[0].divergence.clone().expect("it diverged");
        assert_eq!(
            (parting.index, parting.op, parting.row, parting.col),
            (3, "attend", 1, 2)
        );
        let text = report.text();
        assert!(
            text.contains(
                "op 3 (attend) is the first to diverge: out[1, 2] is 0.75, expected 0.5, 2.5 times"
            ),
            "{text}"
        );
        assert!(text.ends_with("the backends diverge\n"));
        assert_eq!(serde_json::to_value(&report)?["diverged"], true);
        Ok(())
    }

    #[test]
    fn what_is_no_number_has_no_share() {
        let parting = report(f32::INFINITY).steps[0]
            .divergence
            .clone()
            .expect("it diverged");
        assert_eq!(parting.share, None);
    }
}
