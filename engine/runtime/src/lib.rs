//! What stands above the backends: model files, text, models, sequences, policies and sampling.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`hub`] | finding and fetching models: aliases, the Hugging Face hub, package registries, the cache |
//! | [`format`](mod@format) | GGUF and safetensors files, and how their tensors become the device's layouts |
//! | [`text`] | tokenizers, chat templates, streaming detokenisation, stop strings |
//! | [`model`] | architectures, loading, and the ops that a step records |
//! | [`kv`] | pages and the sequences that hold them |
//! | [`policy`] | what each query may read, and what is kept |
//! | [`engine`] | steps of some sequences through one model on one backend |
//! | [`sample`], [`generate`] | choosing tokens, and streams of text |
//! | [`schedule`] | many requests on one engine |
//! | [`session`] | sequences on disk |
//! | [`eval`] | how far a policy is from dense attention: divergence, perplexity, questions about long contexts |
//!
//! **Architecture invariant:** this crate knows no backend; it sees [`longwave_contract::Backend`] only.
//!
//! # Example
//!
//! Any backend serves; `backend` would come from `longwave_cpu` or `longwave_wgpu`.
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use longwave_contract::Backend;
//! use longwave_runtime::Error;
//! use longwave_runtime::engine::{Engine, EngineOptions};
//! use longwave_runtime::generate::{GenerateOptions, Session};
//! use longwave_runtime::model::{Model, ModelSource};
//! use longwave_runtime::policy::Dense;
//!
//! fn answer(backend: Arc<dyn Backend>, file: &Path, question: &str) -> Result<String, Error> {
//!     let source = ModelSource::open(file)?;
//!     let tokenizer = Arc::new(source.tokenizer()?);
//!     let options = EngineOptions::single(2048);
//!     let model = Model::load(&backend, &source, &options, &mut |_event| ())?;
//!     let engine = Engine::new(backend, Arc::new(model), Arc::new(Dense), options)?;
//!     let mut session = Session::new(engine, Arc::clone(&tokenizer));
//!
//!     let prompt = tokenizer.encode(question, true, false)?;
//!     let mut answer = String::new();
//!     for piece in session.generate(&prompt, GenerateOptions::default(), &mut |_done| ())? {
//!         answer.push_str(&piece?.text);
//!     }
//!     Ok(answer)
//! }
//! ```

pub mod calibrate;
pub mod codec;
pub mod engine;
mod error;
pub mod eval;
pub mod format;
pub mod generate;
pub mod hub;
pub mod kv;
pub mod model;
pub mod policy;
pub mod random;
pub mod sample;
pub mod schedule;
pub mod session;
pub mod text;

pub use error::{DoesNotFit, Error};
