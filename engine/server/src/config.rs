//! What a server is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longwave_runtime::sample::SamplingParams;
use longwave_runtime::schedule::Scheduler;
use longwave_runtime::text::{ChatTemplate, Tokenizer};

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where it listens: an address and a port, 0 for any that is free.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What a client must send as its bearer token, where anything.
    pub api_key: Option<String>,
    /// Pages of which origins may call it; `*` for all. Empty for none but its own.
    pub cors: Vec<String>,
    /// The longest body of a request, in bytes.
    pub body_bytes: usize,
    /// How long a request may take as a whole.
    pub timeout: Duration,
    /// How long requests that are under way may go on once the server is told to end.
    pub drain: Duration,
    /// Where sessions are saved; `None` refuses to.
    pub session_dir: Option<PathBuf>,
    /// Whether all sessions are saved when the server ends.
    pub save_on_exit: bool,
    /// Whether prompts are logged.
    pub log_prompts: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            host: "127.0.0.1".into(),
            port: 8080,
            api_key: None,
            cors: Vec::new(),
            body_bytes: 32 << 20,
            timeout: Duration::from_secs(600),
            drain: Duration::from_secs(30),
            session_dir: None,
            save_on_exit: false,
            log_prompts: false,
        }
    }
}

/// The model that is served.
#[derive(Clone, Debug)]
pub struct Subject {
    /// By what name requests ask for it.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How it writes conversations down, where it can.
    pub template: Option<ChatTemplate>,
    /// How tokens are chosen where a request does not say.
    pub sampling: SamplingParams,
}

/// One way to keep the cache that requests may ask for, with what serves it.
#[derive(Debug)]
pub struct Offer {
    /// The policy's name, such as `deltakv`.
    pub policy: String,
    /// The policy with all its settings.
    pub label: String,
    /// Tokens of the history that decode steps read, where they choose.
    pub keep: Option<u32>,
    /// The share of a dense cache's bytes that a long sequence takes.
    pub share: f64,
    /// What serves it.
    pub scheduler: Scheduler,
}
