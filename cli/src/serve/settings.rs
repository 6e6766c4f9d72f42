//! What a server is started with: a file, over it the environment, over that the command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::backend::BackendName;
use crate::kv::KvPolicy;

/// The settings of `longwave serve`, each of which may be left out. A file has the same names, with dashes.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// An alias, a .gguf file, a directory, ORG/NAME or ORG/NAME:FILE; smollm2:135m unless given
    #[arg(short, long, value_name = "MODEL", env = "LONGWAVE_MODEL")]
    pub model: Option<String>,
    /// By what name requests ask for the model; what -m says unless given
    #[arg(long, value_name = "NAME", env = "LONGWAVE_MODEL_NAME")]
    pub model_name: Option<String>,
    /// What runs the model; auto takes a GPU where there is one, else the processor
    #[arg(long, value_enum, value_name = "NAME", env = "LONGWAVE_BACKEND")]
    #[serde(deserialize_with = "named")]
    pub backend: Option<BackendName>,
    /// A GPU by its index or a part of its name
    #[arg(long, value_name = "TEXT", env = "LONGWAVE_DEVICE")]
    pub device: Option<String>,
    /// What the cache keeps, as for `longwave run`; requests choose where it is given several times (in the environment between semicolons)
    #[arg(
        long,
        value_name = "POLICY",
        env = "LONGWAVE_KV",
        value_delimiter = ';'
    )]
    #[serde(deserialize_with = "policies")]
    pub kv: Vec<KvPolicy>,
    /// A text on which deltakv calibrates where it is given no codec; may be given several times
    #[arg(long, value_name = "FILE")]
    pub text: Vec<PathBuf>,
    /// Where to listen; 127.0.0.1 unless given
    #[arg(long, value_name = "ADDRESS", env = "LONGWAVE_HOST")]
    pub host: Option<String>,
    /// The port, 0 for any that is free; 8080 unless given
    #[arg(long, value_name = "PORT", env = "LONGWAVE_PORT")]
    pub port: Option<u16>,
    /// Tokens that a prompt and its answer may have together; 8,192 or the model's context unless given
    #[arg(long, value_name = "N", env = "LONGWAVE_CONTEXT", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Tokens that all requests may hold together, for each policy; as many as fit, 65,536 at most, unless given
    #[arg(long, value_name = "N", env = "LONGWAVE_CACHE_TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub cache_tokens: Option<u32>,
    /// Requests that decode together, for each policy; 32 unless given
    #[arg(long, value_name = "N", env = "LONGWAVE_SEQUENCES", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub sequences: Option<u32>,
    /// Tokens of prompts that are taken in at a time; 512 to 8,192 by device and model unless given
    #[arg(long, value_name = "N", env = "LONGWAVE_CHUNK", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunk: Option<u32>,
    /// Requests that may wait, for each policy; more are refused. 256 unless given
    #[arg(long, value_name = "N", env = "LONGWAVE_QUEUE", value_parser = clap::value_parser!(u32).range(1..))]
    pub queue: Option<u32>,
    /// Milliseconds that requests which decode may wait for others' prompts; 100 unless given
    #[arg(long, value_name = "MS", env = "LONGWAVE_STALL_MS", value_parser = clap::value_parser!(u32).range(1..))]
    pub stall_ms: Option<u32>,
    /// Compute the same beginnings of prompts again for each request
    #[arg(long, env = "LONGWAVE_NO_PREFIX_CACHE")]
    pub no_prefix_cache: bool,
    /// What clients must send as their bearer token
    #[arg(
        long,
        value_name = "KEY",
        env = "LONGWAVE_API_KEY",
        hide_env_values = true
    )]
    pub api_key: Option<String>,
    /// Let pages of this origin call the server, `*` for all; may be given several times
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "LONGWAVE_CORS",
        value_delimiter = ','
    )]
    pub cors: Vec<String>,
    /// The longest body of a request in bytes; 32 MiB unless given
    #[arg(long, value_name = "BYTES", env = "LONGWAVE_BODY_BYTES", value_parser = clap::value_parser!(u64).range(1024..))]
    pub body_bytes: Option<u64>,
    /// Seconds that a request may take; 600 unless given
    #[arg(long, value_name = "SECONDS", env = "LONGWAVE_TIMEOUT", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Seconds that requests under way may go on when the server is told to end; 30 unless given
    #[arg(long, value_name = "SECONDS", env = "LONGWAVE_DRAIN")]
    pub drain: Option<u64>,
    /// Where sessions are saved; without it they are not
    #[arg(long, value_name = "DIR", env = "LONGWAVE_SESSION_DIR")]
    pub session_dir: Option<PathBuf>,
    /// Save all sessions when the server ends
    #[arg(long, env = "LONGWAVE_SAVE_ON_EXIT", requires = "session_dir")]
    pub save_on_exit: bool,
    /// How logs are written; as text unless given
    #[arg(long, value_enum, value_name = "FORMAT", env = "LONGWAVE_LOG_FORMAT")]
    #[serde(deserialize_with = "named")]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug or trace; info unless given
    #[arg(long, value_name = "LEVEL", env = "LONGWAVE_LOG")]
    pub log_level: Option<String>,
    /// Log prompts too
    #[arg(long, env = "LONGWAVE_LOG_PROMPTS")]
    pub log_prompts: bool,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For readers
    Text,
    /// A JSON object on each line
    Json,
}

fn named<'de, D: Deserializer<'de>, T: ValueEnum>(reader: D) -> Result<Option<T>, D::Error> {
    let name = String::deserialize(reader)?;
    T::from_str(&name, false)
        .map(Some)
        .map_err(D::Error::custom)
}

fn policies<'de, D: Deserializer<'de>>(reader: D) -> Result<Vec<KvPolicy>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        One(String),
        Many(Vec<String>),
    }
    let names = match Names::deserialize(reader)? {
        Names::One(name) => vec![name],
        Names::Many(names) => names,
    };
    let policies = names
        .iter()
        .map(|name| KvPolicy::from_str(name).map_err(D::Error::custom));
    policies.collect()
}

impl Settings {
    /// The settings of a file.
    ///
    /// # Errors
    /// It cannot be read, or has a key or a value that there is not.
    pub fn read(path: &Path) -> Result<Self> {
        let file = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(file)?;
        toml::from_str(&text).with_context(file)
    }

    /// These, and where they say nothing, others.
    pub fn over(self, other: Settings) -> Settings {
        let list = |own: Vec<String>, other| if own.is_empty() { other } else { own };
        Settings {
            model: self.model.or(other.model),
            model_name: self.model_name.or(other.model_name),
            backend: self.backend.or(other.backend),
            device: self.device.or(other.device),
            kv: if self.kv.is_empty() {
                other.kv
            } else {
                self.kv
            },
            text: if self.text.is_empty() {
                other.text
            } else {
                self.text
            },
            host: self.host.or(other.host),
            port: self.port.or(other.port),
            context: self.context.or(other.context),
            cache_tokens: self.cache_tokens.or(other.cache_tokens),
            sequences: self.sequences.or(other.sequences),
            chunk: self.chunk.or(other.chunk),
            queue: self.queue.or(other.queue),
            stall_ms: self.stall_ms.or(other.stall_ms),
            no_prefix_cache: self.no_prefix_cache || other.no_prefix_cache,
            api_key: self.api_key.or(other.api_key),
            cors: list(self.cors, other.cors),
            body_bytes: self.body_bytes.or(other.body_bytes),
            timeout: self.timeout.or(other.timeout),
            drain: self.drain.or(other.drain),
            session_dir: self.session_dir.or(other.session_dir),
            save_on_exit: self.save_on_exit || other.save_on_exit,
            log_format: self.log_format.or(other.log_format),
            log_level: self.log_level.or(other.log_level),
            log_prompts: self.log_prompts || other.log_prompts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_names_of_flags() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("server.toml");
        std::fs::write(
            &path,
            "port = 9000\nkv = [\"dense\", \"q8\"]\nbackend = \"cpu\"\nsave-on-exit = true\n",
        )?;
        let file = Settings::read(&path)?;
        assert_eq!(
            (file.port, file.backend),
            (Some(9000), Some(BackendName::Cpu))
        );
        let flags = Settings {
            port: Some(1),
            kv: vec![KvPolicy::from_str("omnikv").map_err(anyhow::Error::msg)?],
            ..Settings::default()
        };
        let both = flags.over(file);
        assert_eq!(
            (both.port, both.kv.len(), both.save_on_exit),
            (Some(1), 1, true)
        );
        for (wrong, what) in [
            ("prot = 1", "prot"),
            ("port = \"x\"", "port"),
            ("kv = \"fast\"", "fast"),
            ("backend = \"abacus\"", "abacus"),
            ("port = ", "server.toml"),
        ] {
            std::fs::write(&path, wrong)?;
            let error = format!("{:#}", Settings::read(&path).expect_err(wrong));
            assert!(error.contains(what), "{wrong}: {error}");
        }
        Ok(())
    }
}
