//! OpenAI's interface over HTTP.
//!
//! | module | holds |
//! | --- | --- |
//! | [`config`] | what a server is started with |
//! | `serve` | listening, and ending without losing what is under way |
//! | `worker` | the thread that owns the schedulers: commands in, events out |
//! | `text` | a request's tokens as they become text |
//! | `chat` | messages as tokens |
//! | `tools` | calls of functions in what a model says |
//! | `grammar` | answers that keep to a JSON schema |
//! | `metrics` | what Prometheus reads |
//! | `api` | the routes, a file for each family |
//!
//! **Architecture invariant:** this crate knows no backend, and no device: it drives [`longwave_runtime::schedule::Scheduler`]s. Everything that waits
//! for a device happens on one thread; handlers only talk to it.

mod api;
mod chat;
pub mod config;
mod error;
mod grammar;
mod metrics;
mod serve;
mod text;
mod tools;
mod worker;

pub use config::{Offer, ServerConfig, Subject};
pub use error::ServerError;
pub use serve::Server;
