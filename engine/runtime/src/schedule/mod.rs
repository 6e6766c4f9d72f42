//! Many requests on one engine: continuous batching.

mod request;

use crate::engine::Engine;
use crate::error::Error;
pub use request::{
    Constraint, Event, Generate, Goal, Logprobs, Pooling, Refusal, Request, RequestId, Stats, Usage,
};

/// How a scheduler works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Requests that may wait.
    pub queue: usize,
    /// The most prompt tokens that are taken in between two tokens of requests that decode; steps that take longer than `stall_ms` take in fewer.
    pub prompt_tokens: u32,
    /// How long a request that decodes may wait for its next token, in milliseconds; an aim.
    pub stall_ms: u32,
    /// Whether requests share what the beginnings of their prompts have in common.
    pub prefix_cache: bool,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        SchedulerOptions {
            queue: 256,
            prompt_tokens: 2048,
            stall_ms: 100,
            prefix_cache: true,
        }
    }
}

/// Shares an engine among requests. It does nothing by itself: each [`Scheduler::step`] runs one unit of work and says what came of it.
#[derive(Debug)]
pub struct Scheduler {
    engine: Engine,
    options: SchedulerOptions,
}

impl Scheduler {
    /// A scheduler with no requests.
    pub fn new(engine: Engine, options: SchedulerOptions) -> Self {
        Scheduler { engine, options }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Takes a request, which waits for its turn.
    ///
    /// # Errors
    /// It can never be served, or too many wait.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Refusal> {
        let _ = (request, &self.options);
        Err(Refusal::QueueFull { waiting: 0 })
    }

    /// Drops a request; what it holds is free before the next step. Returns what it took; `None` where it is over already.
    pub fn cancel(&mut self, id: RequestId) -> Option<Usage> {
        let _ = id;
        None
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        true
    }

    /// Runs one unit of work: a step of all requests that decode, with parts of prompts.
    ///
    /// # Errors
    /// The device failed: no request can go on. What concerns one request alone is an [`Event::Failed`].
    pub fn step(&mut self) -> Result<Vec<Event>, Error> {
        Ok(Vec::new())
    }

    /// How it stands.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
