//! `longwave logits`: the largest logits after some tokens, for comparison with other engines.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use longwave_runtime::engine::EngineOptions;
use serde::Serialize;

use crate::args::{DeviceArguments, ModelArguments, TokenList};
use crate::backend::Choice;
use crate::kv::KvPolicy;
use crate::output::{Notes, Output};
use crate::{context, model};

/// Print the largest logits after some tokens.
#[derive(Args, Debug)]
pub struct LogitsArguments {
    /// The model
    #[command(flatten)]
    pub model: ModelArguments,
    /// The device
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", required = true, value_parser = TokenList::parse, allow_hyphen_values = true)]
    pub tokens: TokenList,
    /// How many logits to print
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub top: usize,
    /// Tokens that are taken in at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub chunk: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The largest logits of a position, and two numbers over all of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Report {
    /// Token and logit, the largest first, of equals the lowest token first.
    top: Vec<(u32, f32)>,
    /// Mean over the vocabulary.
    mean: f64,
    /// Population standard deviation over the vocabulary.
    std: f64,
}

impl LogitsArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model or device cannot be used, or a token does not exist.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let choice = Choice::by(&self.device)?;
        let opened = model::open(&self.model, notes)?;
        let TokenList(tokens) = &self.tokens;
        opened.check_tokens(tokens)?;
        let context = context::of_tokens(tokens.len(), opened.source.config().context)?;
        let options = EngineOptions {
            chunk: self.chunk,
            ..EngineOptions::single(context)
        };
        let mut engine =
            opened.engine(&choice.open(notes)?, &KvPolicy::Dense, &[], options, notes)?;
        let sequence = engine.start();
        let logits = engine.prefill(sequence, tokens, &mut |_| ())?;
        let report = Report::new(&logits, self.top)?;
        let mut output = Output::stdout();
        if self.json {
            output.json(&report)?;
            return Ok(ExitCode::SUCCESS);
        }
        let tokenizer = opened.source.tokenizer()?;
        for &(token, logit) in &report.top {
            let text = tokenizer.decode(&[token], false).unwrap_or_default();
            output.line(format_args!("{token:>8}  {logit:>10.5}  {text:?}"))?;
        }
        output.line(format_args!(
            "mean {:.6}, standard deviation {:.6}, {} logits",
            report.mean,
            report.std,
            logits.len()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Report {
    fn new(logits: &[f32], top: usize) -> Result<Report> {
        ensure!(!logits.is_empty(), "the model has no logits");
        if let Some(token) = logits.iter().position(|logit| !logit.is_finite()) {
            let logit = logits.get(token).context("the position was found")?;
            anyhow::bail!(
                "the logit of token {token} is {logit}: the model or the device is broken"
            );
        }
        let count = logits.len() as f64;
        let mean = logits.iter().map(|&logit| f64::from(logit)).sum::<f64>() / count;
        let variance = logits
            .iter()
            .map(|&logit| (f64::from(logit) - mean).powi(2))
            .sum::<f64>()
            / count;
        let mut ranked: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.truncate(top);
        Ok(Report {
            top: ranked,
            mean,
            std: variance.sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_equals_by_token() -> Result<()> {
        let report = Report::new(&[1.0, 3.0, -2.0, 3.0, 0.0], 3)?;
        assert_eq!(report.top, [(1, 3.0), (3, 3.0), (0, 1.0)]);
        assert_eq!(report.mean, 1.0);
        assert!(
            (report.std - (18.0f64 / 5.0).sqrt()).abs() < 1e-12,
            "{}",
            report.std
        );
        assert_eq!(Report::new(&[1.0], 9)?.top, [(0, 1.0)]);
        Ok(())
    }

    #[test]
    fn json_is_one_object_of_pairs() -> Result<()> {
        let text = serde_json::to_string(&Report::new(&[0.5, 1.5], 1)?)?;
        assert_eq!(text, r#"{"top":[[1,1.5]],"mean":1.0,"std":0.5}"#);
        Ok(())
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        for broken in [f32::NAN, f32::INFINITY] {
            let error = Report::new(&[0.0, broken], 1)
                .expect_err("it is broken")
                .to_string();
            assert!(error.contains("token 1"), "{error}");
        }
        assert!(Report::new(&[], 1).is_err());
    }
}
