//! `--kv`: what the cache keeps, and what attention reads of it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use longwave_contract::Caps;
use longwave_contract::kv::BLOCK;
use longwave_runtime::codec::{CheckpointOptions, LatentFormat};
use longwave_runtime::model::ModelConfig;
use longwave_runtime::policy::{Budget, OmniKv};

/// The forms that `--kv` takes, for help and errors.
pub const FORMS: &str = "dense, q8[:sink=N,recent=N], q4[...], omnikv[:keep=N|all,sink=N,recent=N,full=A+B+...] or \
     deltakv[:codec=PATH,full_kv=f16|q8|q4|codec,stride=N,neighbours=N,latents=f16|q4, and as omnikv]";

/// A policy with its numbers, as `--kv` names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KvPolicy {
    /// Everything is kept and read, exactly.
    #[default]
    Dense,
    /// Everything is kept in 8 or 4 bits, and read.
    Quantised {
        /// Bits of a value.
        bits: u32,
        /// What stays exact.
        budget: Budget,
    },
    /// Everything is kept; most layers of a decode step read what a few others choose.
    OmniKv {
        /// How much they read.
        budget: Budget,
        /// The layers that read everything, where they are named.
        full: Option<Vec<u32>>,
    },
    /// Old tokens are compressed; most layers restore what a few others choose.
    DeltaKv {
        /// How much they read, and what stays exact.
        budget: Budget,
        /// The layers that read everything, where they are named.
        full: Option<Vec<u32>>,
        /// The codec's file, or a checkpoint's file or directory; without one, a codec is calibrated.
        codec: Option<PathBuf>,
        /// What is asked of a checkpoint.
        checkpoint: CheckpointOptions,
        /// How the layers that read everything store it.
        full_kv: FullKv,
    },
}

/// How layers that read everything store their tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FullKv {
    /// Raw rows.
    F16,
    /// 8 bits.
    Q8,
    /// 4 bits.
    Q4,
    /// As the other layers.
    #[default]
    Codec,
}

impl FullKv {
    const ALL: [(FullKv, &'static str); 4] = [
        (FullKv::F16, "f16"),
        (FullKv::Q8, "q8"),
        (FullKv::Q4, "q4"),
        (FullKv::Codec, "codec"),
    ];

    fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(kind, _)| *kind == self);
        found.map_or("codec", |(_, name)| name)
    }
}

/// How many restored rows stay from one decode step to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// What is read, and as many chosen tokens again.
    Wide,
    /// What is read.
    Narrow,
    /// None.
    Absent,
}

impl KvPolicy {
    /// Whether the policy fits a model of so many layers, as far as that can be said before the model is loaded.
    ///
    /// # Errors
    /// A layer does not exist, the first is not full, or the codec's file is not there.
    pub fn check(&self, layers: u32) -> Result<()> {
        if let KvPolicy::OmniKv { budget, full } | KvPolicy::DeltaKv { budget, full, .. } = self {
            OmniKv::new(layers, full.as_deref(), *budget)
                .with_context(|| format!("--kv {self}"))?;
        }
        if let KvPolicy::DeltaKv {
            codec: Some(path), ..
        } = self
        {
            ensure!(
                path.exists(),
                "--kv {self}: {} is not there",
                path.display()
            );
        }
        Ok(())
    }

    /// Tokens that the model must be loaded for besides the run: where a codec may have to be calibrated first, those of its windows.
    pub fn positions(&self) -> u32 {
        match self {
            KvPolicy::DeltaKv { codec: None, .. } => 2048,
            _ => 0,
        }
    }

    /// Whether old tokens are compressed, so that prompts are taken in layer by layer.
    pub fn compresses(&self) -> bool {
        matches!(self, KvPolicy::Quantised { .. } | KvPolicy::DeltaKv { .. })
    }

    /// Whether decode steps leave tokens out.
    pub fn chooses(&self) -> bool {
        matches!(self, KvPolicy::OmniKv { .. } | KvPolicy::DeltaKv { .. })
    }

    /// Tokens of the history that a decode step's following layers read; `None` where all are.
    pub fn keep(&self) -> Option<u32> {
        match self {
            KvPolicy::OmniKv { budget, .. } | KvPolicy::DeltaKv { budget, .. } => Some(budget.keep),
            _ => None,
        }
    }

    /// Restored rows that each following layer keeps for a sequence between decode steps, in a cache of `context` tokens; 0 where none are
    /// restored, or they would undo what compression saves ([`Budget::resident_rows`]).
    pub fn resident_rows(&self, context: u32, lanes: Lanes) -> u32 {
        let KvPolicy::DeltaKv { budget, .. } = self else {
            return 0;
        };
        // A tail is up to a block longer than what always stays.
        let recent = budget.recent.saturating_add(BLOCK);
        let budget = Budget { recent, ..*budget };
        match lanes {
            Lanes::Wide => budget.resident_rows(context),
            Lanes::Narrow => budget.least_resident_rows(context),
            Lanes::Absent => 0,
        }
    }

    /// Rows that a decode step restores for a sequence at most, in a cache of `context` tokens of a model on a device.
    pub fn restored_rows(&self, context: u32, config: &ModelConfig, caps: &Caps) -> u32 {
        let as_stored = caps.reads_stored(config.shape.head_dim, config.has_key_norms());
        match self {
            KvPolicy::Quantised { .. } if as_stored => 0,
            KvPolicy::DeltaKv {
                budget,
                full_kv: FullKv::F16,
                ..
            } => {
                let recent = budget.recent.saturating_add(BLOCK);
                Budget { recent, ..*budget }.restored_rows(context)
            }
            _ => context,
        }
    }

    /// Thousandths of a dense cache's bytes that this is expected to take, so that a model's loading leaves room.
    pub fn permille(&self) -> u32 {
        match self {
            KvPolicy::Dense | KvPolicy::OmniKv { .. } => 1000,
            KvPolicy::Quantised { bits: 8, .. } => 560,
            KvPolicy::Quantised { .. } => 310,
            KvPolicy::DeltaKv { full_kv, .. } => match full_kv {
                FullKv::F16 => 450,
                _ => 350,
            },
        }
    }
}

impl fmt::Display for KvPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (budget, full) = match self {
            KvPolicy::Dense => return f.write_str("dense"),
            KvPolicy::Quantised { bits, budget } => {
                return write!(f, "q{bits}:sink={},recent={}", budget.sink, budget.recent);
            }
            KvPolicy::OmniKv { budget, full } => {
                write!(f, "omnikv:")?;
                (budget, full)
            }
            KvPolicy::DeltaKv {
                budget,
                full,
                codec,
                checkpoint,
                full_kv,
            } => {
                write!(f, "deltakv:")?;
                if let Some(path) = codec {
                    write!(f, "codec={},", path.display())?;
                }
                if *full_kv != FullKv::default() {
                    write!(f, "full_kv={},", full_kv.name())?;
                }
                if let Some(stride) = checkpoint.stride {
                    write!(f, "stride={stride},")?;
                }
                if let Some(neighbours) = checkpoint.neighbours {
                    write!(f, "neighbours={neighbours},")?;
                }
                if checkpoint.latents == LatentFormat::Q4 {
                    write!(f, "latents=q4,")?;
                }
                (budget, full)
            }
        };
        match budget.keep {
            u32::MAX => write!(f, "keep=all")?,
            keep => write!(f, "keep={keep}")?,
        }
        write!(f, ",sink={},recent={}", budget.sink, budget.recent)?;
        if let Some(full) = full {
            let full: Vec<String> = full.iter().map(u32::to_string).collect();
            write!(f, ",full={}", full.join("+"))?;
        }
        Ok(())
    }
}

impl FromStr for KvPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, settings) = text.split_once(':').unwrap_or((text, ""));
        let keys: &[&str] = match name {
            "dense" if settings.is_empty() => return Ok(KvPolicy::Dense),
            "dense" => return Err(format!("`dense` has no settings, found `{settings}`")),
            "q8" | "q4" => &["sink", "recent"],
            "omnikv" => &["keep", "sink", "recent", "full"],
            "deltakv" => &[
                "keep",
                "sink",
                "recent",
                "full",
                "codec",
                "full_kv",
                "stride",
                "neighbours",
                "latents",
            ],
            _ => return Err(format!("there is no policy `{name}`; expected {FORMS}")),
        };
        let Settings {
            budget,
            full,
            codec,
            checkpoint,
            full_kv,
        } = Settings::read(name, settings, keys)?;
        Ok(match name {
            "q8" => KvPolicy::Quantised { bits: 8, budget },
            "q4" => KvPolicy::Quantised { bits: 4, budget },
            "omnikv" => KvPolicy::OmniKv { budget, full },
            _ => KvPolicy::DeltaKv {
                budget,
                full,
                codec,
                checkpoint,
                full_kv,
            },
        })
    }
}

/// What may stand after a policy's name.
#[derive(Default)]
struct Settings {
    budget: Budget,
    full: Option<Vec<u32>>,
    codec: Option<PathBuf>,
    checkpoint: CheckpointOptions,
    full_kv: FullKv,
}

impl Settings {
    fn read(name: &str, text: &str, keys: &[&str]) -> Result<Self, String> {
        let mut found = Settings::default();
        let mut seen = Vec::new();
        for setting in text.split(',').filter(|setting| !setting.is_empty()) {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| format!("`{setting}` is not KEY=VALUE"))?;
            if seen.contains(&key) {
                return Err(format!("`{key}` is given twice"));
            }
            seen.push(key);
            let budget = &mut found.budget;
            match key {
                _ if !keys.contains(&key) => {
                    return Err(format!("{name} has no setting `{key}`; expected {FORMS}"));
                }
                "keep" if value == "all" => budget.keep = u32::MAX,
                "keep" => budget.keep = number(key, value, 1)?,
                "sink" => budget.sink = number(key, value, 0)?,
                // The token at hand is one of them.
                "recent" => budget.recent = number(key, value, 1)?,
                "full" => {
                    let layers = value.split('+').map(|layer| number(key, layer, 0));
                    found.full = Some(layers.collect::<Result<Vec<_>, _>>()?);
                }
                "codec" => found.codec = Some(PathBuf::from(value)),
                "stride" => found.checkpoint.stride = Some(number(key, value, 2)?),
                "neighbours" => found.checkpoint.neighbours = Some(number(key, value, 1)?),
                "latents" => {
                    found.checkpoint.latents = match value {
                        "f16" => LatentFormat::F16,
                        "q4" => LatentFormat::Q4,
                        _ => return Err(format!("{key} is `{value}`, expected f16 or q4")),
                    }
                }
                _ => {
                    let kind = FullKv::ALL.iter().find(|(_, name)| *name == value);
                    found.full_kv = kind.map(|(kind, _)| *kind).ok_or_else(|| {
                        format!("{key} is `{value}`, expected f16, q8, q4 or codec")
                    })?;
                }
            }
        }
        Ok(found)
    }
}

fn number(key: &str, value: &str, least: u32) -> Result<u32, String> {
    let parsed = value.parse::<u32>().ok().filter(|number| *number >= least);
    parsed.ok_or_else(|| format!("{key} is `{value}`, expected a number from {least}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_and_written_alike() {
        for text in [
            "omnikv:keep=512,sink=4,recent=64,full=0+2",
            "q8:sink=4,recent=64",
            "deltakv:codec=a.codec,full_kv=q4,keep=all,sink=8,recent=128,full=0+3",
            "deltakv:codec=a,stride=8,neighbours=2,latents=q4,keep=9,sink=8,recent=128",
        ] {
            let policy: KvPolicy = text.parse().expect("it is a policy");
            assert_eq!(policy.to_string(), text);
        }
        let plain: KvPolicy = "omnikv".parse().expect("it is a policy");
        assert_eq!(plain.to_string(), "omnikv:keep=2048,sink=8,recent=128");
        let plain: KvPolicy = "deltakv".parse().expect("it is a policy");
        assert_eq!(plain.to_string(), "deltakv:keep=2048,sink=8,recent=128");
        let all: KvPolicy = "omnikv:keep=all".parse().expect("it is a policy");
        assert_eq!(all.to_string().parse(), Ok(all));
        assert_eq!("dense".parse(), Ok(KvPolicy::Dense));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("nonsense", "nonsense"),
            ("", "expected dense"),
            ("dense:keep=1", "keep=1"),
            ("q4:keep=1", "keep"),
            ("omnikv:keep", "`keep` is not"),
            ("omnikv:keep=0", "keep is `0`"),
            ("omnikv:keep=-1", "keep is `-1`"),
            ("omnikv:recent=0", "recent is `0`"),
            ("omnikv:sink=x", "sink is `x`"),
            ("omnikv:full=0++2", "full is ``"),
            ("omnikv:keep=1,keep=2", "twice"),
            ("omnikv:codec=x", "codec"),
            ("deltakv:full_kv=q5", "full_kv is `q5`"),
            ("deltakv:latents=q5", "latents is `q5`"),
            ("deltakv:stride=1", "stride is `1`"),
        ] {
            let error = text.parse::<KvPolicy>().expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        let check = |text: &str| {
            let policy = text.parse::<KvPolicy>().expect("it is read");
            let error = policy.check(4).err();
            error.map(|error| format!("{error:#}")).unwrap_or_default()
        };
        assert!(check("omnikv:full=1").contains("layer 0"));
        assert!(check("deltakv:codec=no.such").contains("no.such is not there"));
    }
}
