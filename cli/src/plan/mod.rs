//! `longwave plan`: what fits into a device's memory, for each policy.

mod ledger;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Args;
use longwave_contract::kv::PAGE;
use longwave_contract::{Backend, Caps};
use longwave_runtime::codec::{Codec, ModelCodec, rotated};
use longwave_runtime::engine::{Engine, EngineOptions};
use longwave_runtime::model::{Model, ModelConfig};
use longwave_runtime::policy::{DeltaKv, Dense, OmniKv, Policy};
use serde::Serialize;

use crate::args::{DeviceArguments, ModelArguments};
use crate::backend::Choice;
use crate::kv::{FullKv, KvPolicy, Lanes};
use crate::model::{self, Opened};
use crate::output::{Notes, Output};
use crate::report;
use ledger::Ledger;

/// Say which contexts and how many requests fit into a device's memory.
///
/// Everything is counted as it would be allocated: weights, cache, codecs, and working memory. What kernels take besides when they first run is some
/// megabytes, up to 3 % of the memory, which is left free.
#[derive(Args, Debug)]
pub struct PlanArguments {
    /// The model
    #[command(flatten)]
    pub model: ModelArguments,
    /// The device whose way to work is planned for
    #[command(flatten)]
    pub device: DeviceArguments,
    /// How much memory there is, such as 24GiB or 80GB; what is free on the device unless given
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// What the cache keeps, as for `longwave run`; may be given several times. Without a codec, deltakv is counted as with 4 bits a value
    #[arg(long, value_name = "POLICY", default_values = ["dense", "q8", "q4", "omnikv", "deltakv"])]
    pub kv: Vec<KvPolicy>,
    /// Tokens of each request, to say how many of them fit together; 8,192 or the model's context unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What fits.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    memory: u64,
    /// Of the model's weights.
    weights: u64,
    context_limit: u32,
    request_tokens: u32,
    policies: Vec<Fitting>,
}

/// What fits with one policy.
#[derive(Debug, Serialize)]
struct Fitting {
    policy: String,
    /// Bytes that another token of a single sequence takes, working memory included.
    bytes_per_token: f64,
    /// The largest context of one sequence; 0 where none fits.
    context: u32,
    /// All bytes that are allocated then.
    context_bytes: u64,
    /// Requests of `request_tokens` tokens that fit together.
    sequences: u32,
    /// All bytes that are allocated then.
    sequences_bytes: u64,
}

/// Sizes as people write them.
fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let number: f64 = text[..digits]
        .parse()
        .map_err(|_| format!("{text:?} is no size"))?;
    let unit: u64 = match text[digits..].trim().to_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "kib" | "k" => 1 << 10,
        "mb" => 1_000_000,
        "mib" | "m" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" | "g" => 1 << 30,
        "tb" => 1_000_000_000_000,
        "tib" | "t" => 1 << 40,
        other => {
            return Err(format!(
                "there is no unit {other:?}: expected B, KB, KiB, MB, MiB, GB, GiB, TB or TiB"
            ));
        }
    };
    let bytes = number * unit as f64;
    if !(1.0..=(1u64 << 60) as f64).contains(&bytes) {
        return Err(format!("{text:?} is out of range"));
    }
    Ok(bytes as u64)
}

/// The largest value up to `most` that fits, where 0 always does.
fn largest(most: u32, fits: impl Fn(u32) -> Result<bool>) -> Result<u32> {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle)? {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(low)
}

impl PlanArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model or a codec cannot be read, or it is not known how much memory there is.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let opened = model::open(&self.model, notes)?;
        let config = opened.source.config().clone();
        let request = self.context.unwrap_or(8192.min(config.context));
        ensure!(
            request <= config.context,
            "--context {request} is beyond the model's context of {} tokens",
            config.context
        );
        let choice = Choice::by(&self.device)?;
        let backend = choice.open(notes)?;
        let caps = backend.caps().clone();
        drop(backend);
        let memory = self.memory.or(caps.memory);
        let memory =
            memory.context("the device does not say how much memory is free: give --memory")?;
        let room = memory - memory / 100 * 3;
        let mut policies = Vec::new();
        for kv in &self.kv {
            kv.check(config.layers)?;
            let plan = Plan {
                opened: &opened,
                caps: &caps,
                policy: policy(kv, &config)?,
                kv,
            };
            let pages = largest(config.context / PAGE, |pages| {
                Ok(pages == 0
                    || plan
                        .bytes(pages * PAGE, 1)?
                        .is_some_and(|bytes| bytes <= room))
            })?;
            let sequences = largest(1024, |sequences| {
                Ok(sequences == 0
                    || plan
                        .bytes(request, sequences)?
                        .is_some_and(|bytes| bytes <= room))
            })?;
            let bytes = |context, sequences| match sequences * context {
                0 => Ok(0),
                _ => anyhow::Ok(plan.bytes(context, sequences)?.unwrap_or(0)),
            };
            let (short, long) = (config.context.min(2048), config.context.min(16_384));
            let more = bytes(long, 1)?.saturating_sub(bytes(short, 1)?);
            policies.push(Fitting {
                policy: kv.to_string(),
                bytes_per_token: more as f64 / f64::from((long - short).max(1)),
                context: pages * PAGE,
                context_bytes: bytes(pages * PAGE, 1)?,
                sequences,
                sequences_bytes: bytes(request, sequences)?,
            });
        }
        let report = Report {
            model: opened.name.clone(),
            memory,
            weights: opened.source.summary()?.bytes,
            context_limit: config.context,
            request_tokens: request,
            policies,
        };
        let mut output = Output::stdout();
        if self.json {
            output.json(&report)?;
        } else {
            output.text(&report.table())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Report {
    fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "{} in {}: weights {}, contexts of up to {} tokens",
                self.model,
                report::bytes(self.memory),
                report::bytes(self.weights),
                self.context_limit
            ),
            String::new(),
            format!(
                "| policy | bytes a token | one sequence of | requests of {} |",
                self.request_tokens
            ),
            "| --- | ---: | ---: | ---: |".into(),
        ];
        lines.extend(self.policies.iter().map(|one| {
            let context = match one.context {
                0 => "none fits".to_owned(),
                tokens => format!("{tokens} ({})", report::bytes(one.context_bytes)),
            };
            format!(
                "| {} | {:.0} | {context} | {} |",
                one.policy, one.bytes_per_token, one.sequences
            )
        }));
        lines.join("\n") + "\n"
    }
}

/// What one policy takes of a kind of device.
struct Plan<'p> {
    opened: &'p Opened,
    caps: &'p Caps,
    policy: Arc<dyn Policy>,
    kv: &'p KvPolicy,
}

impl Plan<'_> {
    /// Bytes for so many sequences of a context; `None` where a codec cannot name as many references.
    fn bytes(&self, context: u32, sequences: u32) -> Result<Option<u64>> {
        let ledger = Arc::new(Ledger::new(self.caps));
        let backend: Arc<dyn Backend> = Arc::clone(&ledger) as _;
        let config = self.opened.source.config();
        let chunk = EngineOptions::chunk_for(self.caps, config).min(context);
        let options = EngineOptions {
            context,
            cache_tokens: context.saturating_mul(sequences),
            chunk: chunk.max(sequences),
            sequences,
            engines: 1,
            cache_permille: self.kv.permille(),
            resident_rows: self.kv.resident_rows(context, Lanes::Wide),
            restored_rows: self.kv.restored_rows(context, config, self.caps),
            overlap: None,
        };
        let model = Arc::new(Model::outline(&backend, &self.opened.source, &options)?);
        let engine = Engine::new(backend, model, Arc::clone(&self.policy), options);
        match engine {
            Ok(_engine) => Ok(Some(ledger.allocated())),
            Err(longwave_runtime::Error::Parameter(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A policy with the shapes of its codecs, which is what their room depends on.
fn policy(kv: &KvPolicy, config: &ModelConfig) -> Result<Arc<dyn Policy>> {
    let means = vec![vec![0.0; config.shape.cols() as usize]; config.layers as usize];
    let rotated = |bits| rotated(config.shape, &means, bits);
    Ok(match kv {
        KvPolicy::Dense => Arc::new(Dense),
        KvPolicy::OmniKv { budget, full } => {
            Arc::new(OmniKv::new(config.layers, full.as_deref(), *budget)?)
        }
        KvPolicy::Quantised { bits, budget } => {
            let name = if *bits == 8 { "q8" } else { "q4" };
            Arc::new(DeltaKv::stored(name, *budget, rotated(*bits)))
        }
        KvPolicy::DeltaKv {
            budget,
            full,
            codec,
            full_kv,
            ..
        } => {
            let (codecs, observers) = match codec {
                None => (rotated(4), None),
                Some(path) => {
                    let codec = ModelCodec::open(path)?;
                    let observers = codec.observers().map(<[u32]>::to_vec);
                    (codec.layers(), observers)
                }
            };
            ensure!(
                codecs.len() == config.layers as usize,
                "--kv {kv}: the codec is of {} layers, the model has {}",
                codecs.len(),
                config.layers
            );
            let full = full.clone().or(observers);
            let selection = OmniKv::new(config.layers, full.as_deref(), *budget)?;
            let others = match full_kv {
                FullKv::Q8 => Some(rotated(8)),
                FullKv::Q4 => Some(rotated(4)),
                FullKv::F16 | FullKv::Codec => None,
            };
            let placed = codecs.into_iter().enumerate().map(|(layer, codec)| {
                match (selection.is_full(layer as u32), full_kv, &others) {
                    (true, FullKv::F16, _) => None,
                    (true, _, Some(others)) => Some(Arc::clone(&others[layer])),
                    _ => Some(codec),
                }
            });
            let placed: Vec<Option<Arc<dyn Codec>>> = placed.collect();
            Arc::new(DeltaKv::new(full.as_deref(), *budget, placed)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("24GiB"), Ok(24 << 30));
        assert_eq!(size("1.5 gb"), Ok(1_500_000_000));
        assert_eq!(size("4096"), Ok(4096));
        for wrong in ["", "GiB", "5 parsecs", "0", "-3GiB", "1e9"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_largest_that_fits_is_found() -> Result<()> {
        for limit in [0, 1, 7, 100] {
            assert_eq!(largest(100, |value| Ok(value <= limit))?, limit.min(100));
        }
        Ok(())
    }
}
