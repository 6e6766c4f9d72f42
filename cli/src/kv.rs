//! `--kv`: what the cache keeps, and what attention reads of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use longwave_runtime::policy::{Budget, Dense, OmniKv, Policy};

/// The forms that `--kv` takes, for help and errors.
pub const FORMS: &str = "dense or omnikv[:keep=N|all,sink=N,recent=N,full=A+B+...]";

/// A policy with its numbers, as `--kv` names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KvPolicy {
    /// Everything is kept and read, exactly.
    #[default]
    Dense,
    /// Everything is kept; most layers of a decode step read what a few others choose.
    OmniKv {
        /// How much they read.
        budget: Budget,
        /// The layers that read everything, where they are named.
        full: Option<Vec<u32>>,
    },
}

impl KvPolicy {
    /// The policy for a model of so many layers.
    ///
    /// # Errors
    /// A layer does not exist, or the first is not full.
    pub fn policy(&self, layers: u32) -> Result<Arc<dyn Policy>> {
        Ok(match self {
            KvPolicy::Dense => Arc::new(Dense),
            KvPolicy::OmniKv { budget, full } => Arc::new(
                OmniKv::new(layers, full.as_deref(), *budget)
                    .with_context(|| format!("--kv {self}"))?,
            ),
        })
    }
}

impl fmt::Display for KvPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KvPolicy::OmniKv { budget, full } = self else {
            return f.write_str("dense");
        };
        write!(f, "omnikv:")?;
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
        match name {
            "dense" if settings.is_empty() => Ok(KvPolicy::Dense),
            "dense" => Err(format!("`dense` has no settings, found `{settings}`")),
            "omnikv" => omnikv(settings),
            _ => Err(format!("there is no policy `{name}`; expected {FORMS}")),
        }
    }
}

fn omnikv(settings: &str) -> Result<KvPolicy, String> {
    let (mut budget, mut full) = (Budget::default(), None);
    let mut seen = Vec::new();
    for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("`{setting}` is not KEY=VALUE"))?;
        if seen.contains(&key) {
            return Err(format!("`{key}` is given twice"));
        }
        seen.push(key);
        match key {
            "keep" if value == "all" => budget.keep = u32::MAX,
            "keep" => budget.keep = number(key, value, 1)?,
            "sink" => budget.sink = number(key, value, 0)?,
            // The token at hand is one of them.
            "recent" => budget.recent = number(key, value, 1)?,
            "full" => {
                let layers = value.split('+').map(|layer| number(key, layer, 0));
                full = Some(layers.collect::<Result<Vec<_>, _>>()?);
            }
            _ => return Err(format!("omnikv has no setting `{key}`; expected {FORMS}")),
        }
    }
    Ok(KvPolicy::OmniKv { budget, full })
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
        let text = "omnikv:keep=512,sink=4,recent=64,full=0+2";
        let policy: KvPolicy = text.parse().expect("it is a policy");
        assert_eq!(policy.to_string(), text);
        let plain: KvPolicy = "omnikv".parse().expect("it is a policy");
        assert_eq!(plain.to_string(), "omnikv:keep=2048,sink=8,recent=128");
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
            ("omnikv:keep", "`keep` is not"),
            ("omnikv:keep=0", "keep is `0`"),
            ("omnikv:keep=-1", "keep is `-1`"),
            ("omnikv:recent=0", "recent is `0`"),
            ("omnikv:sink=x", "sink is `x`"),
            ("omnikv:full=0++2", "full is ``"),
            ("omnikv:keep=1,keep=2", "twice"),
            ("omnikv:codec=x", "codec"),
        ] {
            let error = text.parse::<KvPolicy>().expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = "omnikv:full=1"
            .parse::<KvPolicy>()
            .expect("layers are checked against the model")
            .policy(4)
            .err()
            .map(|error| format!("{error:#}"));
        assert!(error.is_some_and(|error| error.contains("layer 0")));
    }
}
