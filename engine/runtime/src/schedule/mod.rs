//! Many requests on one engine: continuous batching.
//!
//! Each step takes one token of every request that decodes, and beside them parts of prompts: chunks that share the step where nothing compresses, else
//! one layer of one chunk ([`Intake`]). So no request waits for another's long prompt. Requests are admitted when the cache has room for their
//! prompts; where it runs out, what only the prefix cache holds goes first, then idle sessions, then the request of the lowest priority that
//! came last is put back: its tokens stay, and their rows are computed again.

mod choose;
mod job;
mod pace;
mod prompts;
mod request;
mod sessions;
mod share;

use std::collections::VecDeque;
use std::time::Instant;

use longwave_contract::BackendError;

use crate::engine::{Engine, Feed, Intake, Outcome};
use crate::error::Error;
use crate::generate::FinishReason;
use crate::kv::SequenceId;
use crate::sample::Sampler;
use job::{Ended, Given, Job};
use pace::Pace;
pub use request::{
    Constraint, Event, Generate, Goal, Logprobs, Pooling, Refusal, Request, RequestId, Stats, Usage,
};
pub use sessions::SessionInfo;
use sessions::Sessions;
use share::{Prompt, share};

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
    /// Those that wait, the next one first.
    waiting: VecDeque<Job>,
    /// Those that have a sequence, in the order in which they were admitted.
    running: Vec<Job>,
    /// The prompt that is on its way through the layers.
    intake: Option<(RequestId, Intake)>,
    sessions: Sessions,
    pace: Pace,
    next: u64,
    stats: Stats,
}

impl Scheduler {
    /// A scheduler with no requests.
    pub fn new(mut engine: Engine, options: SchedulerOptions) -> Self {
        if options.prefix_cache {
            engine.share_prefixes();
        }
        let most = options.prompt_tokens.min(engine.options().chunk);
        Scheduler {
            pace: Pace::new(most, options.stall_ms),
            engine,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            intake: None,
            sessions: Sessions::default(),
            next: 0,
            stats: Stats::default(),
        }
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
        self.check(&request)?;
        if self.waiting.len() >= self.options.queue.max(1) {
            let waiting = self.waiting.len();
            return Err(Refusal::QueueFull { waiting });
        }
        let id = RequestId(self.next);
        self.next += 1;
        self.stats.requests += 1;
        self.stats.prompt_tokens += request.prompt.len() as u64;
        self.enqueue(Job::new(id, request));
        Ok(id)
    }

    /// Whether the request can be served when nothing else is there.
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let options = self.engine.options();
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt.into());
        }
        let vocabulary = self.engine.model().config().vocabulary;
        let beyond = |token: &u32| *token >= vocabulary;
        if let Some(position) = request.prompt.iter().position(beyond) {
            let token = request.prompt[position];
            return Err(Refusal::Invalid(Error::TokenBeyondVocabulary {
                token,
                position,
                vocabulary,
            }));
        }
        let prompt = request.prompt.len() as u64;
        let mut tokens = prompt;
        if let Goal::Generate(generate) = &request.goal {
            generate.sampling.check().map_err(Error::Parameter)?;
            tokens += generate.max_tokens.unwrap_or(1) as u64;
        }
        let context = options.context;
        if prompt > u64::from(context) {
            return Err(Refusal::Invalid(Error::ContextExceeded {
                tokens: prompt,
                context,
            }));
        }
        // What is beyond the context is not generated.
        let tokens = tokens.min(u64::from(context));
        let total = u64::from(options.cache_tokens);
        if tokens > total {
            let bytes = self.engine.cache_use().total;
            return Err(Refusal::NeverFits {
                tokens,
                needed: (u128::from(bytes) * u128::from(tokens) / u128::from(total.max(1))) as u64,
                total: bytes,
            });
        }
        Ok(())
    }

    /// Puts a job among those that wait: behind those of its priority that came before it.
    fn enqueue(&mut self, job: Job) {
        let before = |other: &Job| (-other.priority, other.id) < (-job.priority, job.id);
        let at = self.waiting.iter().position(|other| !before(other));
        self.waiting.insert(at.unwrap_or(self.waiting.len()), job);
    }

    /// Drops a request; what it holds is free before the next step. Returns what it took; `None` where it is over already.
    pub fn cancel(&mut self, id: RequestId) -> Option<Usage> {
        if let Some(at) = self.waiting.iter().position(|job| job.id == id) {
            let job = self.waiting.remove(at)?;
            return Some(job.usage(&self.engine));
        }
        let at = self.running.iter().position(|job| job.id == id)?;
        let job = self.running.remove(at);
        let usage = job.usage(&self.engine);
        self.release(job, true);
        Some(usage)
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Runs one unit of work: a step of all requests that decode, with parts of prompts.
    ///
    /// # Errors
    /// The device failed: no request can go on. What concerns one request alone is an [`Event::Failed`].
    pub fn step(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        self.admit(&mut events)?;
        if self.running.is_empty() {
            return Ok(events);
        }
        self.stats.steps += 1;
        self.embed(&mut events)?;
        let parts = self.plan(&mut events)?;
        if !parts.is_empty() {
            let start = Instant::now();
            let prompts = parts.iter().filter(|part| !part.decodes);
            let taken: f64 = prompts.map(|part| part.tokens as f64 * part.cost).sum();
            let decoding = parts.iter().filter(|part| part.decodes).count();
            if let Some(outcome) = self.tolerate(&mut events, |all| all.run(&parts))? {
                self.pace.took(start.elapsed(), taken, decoding);
                self.take(&parts, outcome, &mut events);
            }
        }
        if self.engine.compresses() {
            self.take_in(&mut events)?;
        }
        Ok(events)
    }

    /// Gives sequences to those that wait, as long as there is room for their prompts.
    fn admit(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        while self.running.len() < self.engine.options().sequences as usize {
            let Some(mut job) = self.waiting.pop_front() else {
                break;
            };
            let (sequence, cached, sampler) = self.begin(&mut job)?;
            let mut growth = vec![(sequence, (job.tokens.len() - cached) as u32)];
            // Room for a token of each of the others besides, so that they are not put back at once.
            for other in &self.running {
                growth.extend(other.sequence.map(|id| (id, self.left(other).max(1))));
            }
            let room = self.room(&growth);
            if let Err(error) = room {
                match (&job.session, sampler) {
                    (Some(name), Some(sampler)) => {
                        let held = (sequence, sampler);
                        self.sessions.keep(name.clone(), held, &mut self.engine);
                    }
                    _ => self.engine.end(sequence),
                }
                match error {
                    Error::CacheFull { .. } if !self.running.is_empty() => {
                        self.waiting.push_front(job);
                    }
                    // Nobody else will give anything back.
                    error => {
                        let id = job.id;
                        events.push(Event::Failed { id, error });
                        continue;
                    }
                }
                break;
            }
            if job.cached.is_none() {
                job.cached = Some(cached);
                self.stats.cached_tokens += cached as u64;
            }
            job.sequence = Some(sequence);
            self.running.push(job);
        }
        Ok(())
    }

    /// A sequence for a job, and how many of its tokens it has already: those of its session, whose sampler comes with it, or else what the
    /// prefix cache knows.
    fn begin(&mut self, job: &mut Job) -> Result<Begun, Error> {
        if let Some(name) = &job.session
            && let Some(idle) = self.sessions.take(name)
        {
            let sequence = idle.sequence;
            if let Some(sampler) = &idle.sampler {
                job.follow(sampler);
            }
            let have = &self.engine.sequence(sequence)?.tokens;
            let most = job.tokens.len() - 1;
            let shared = have.iter().zip(&job.tokens[..most]);
            let shared = shared.take_while(|(a, b)| a == b).count();
            let kept = self.engine.truncate(sequence, shared as u32)?;
            return Ok((sequence, kept as usize, Some(idle.sampler)));
        }
        let (sequence, cached) = self.engine.start_from(&job.tokens);
        Ok((sequence, cached as usize, None))
    }

    /// Makes room, for which idle sessions go where it must be.
    fn room(&mut self, growth: &[(SequenceId, u32)]) -> Result<(), Error> {
        loop {
            match self.engine.make_room(growth) {
                Err(Error::CacheFull { .. }) if self.sessions.forget_oldest(&mut self.engine) => {}
                made => return made,
            }
        }
    }

    /// Tokens of a job that have no rows yet.
    fn left(&self, job: &Job) -> u32 {
        let have = job.sequence.and_then(|id| self.engine.sequence(id).ok());
        (job.tokens.len() - have.map_or(0, |sequence| sequence.tokens.len())) as u32
    }

    /// What the next step takes in: a token of each request that decodes, and of prompts equal shares of what is left. A share is counted in
    /// work, so that a step does not take longer the further a prompt has come.
    fn plan(&mut self, events: &mut Vec<Event>) -> Result<Vec<Part>, Error> {
        let compresses = self.engine.compresses();
        loop {
            let rows = self.engine.options().chunk as usize;
            self.step_back()?;
            let mut parts = Vec::new();
            let mut prompts = Vec::new();
            for (index, job) in self.running.iter().enumerate() {
                let Some(id) = job.sequence else { continue };
                let left = self.left(job) as usize;
                let have = self.engine.sequence(id).map_or(0, |held| held.len());
                if job.generate().is_none() {
                    continue;
                }
                if left == 1 && have > 0 && parts.len() < rows {
                    parts.push(Part {
                        index,
                        tokens: 1,
                        cost: 1.0,
                        decodes: true,
                    });
                } else if left > 0 && !compresses {
                    let cost = self.engine.model().config().row_cost(have);
                    prompts.push(Prompt { index, left, cost });
                }
            }
            let decoding = parts.len();
            let room = self.pace.room(decoding).min(rows - decoding);
            for (prompt, tokens) in share(&prompts, room) {
                parts.push(Part {
                    index: prompt.index,
                    tokens,
                    cost: prompt.cost,
                    decodes: false,
                });
            }
            let growth: Vec<(SequenceId, u32)> = parts
                .iter()
                .filter_map(|part| Some((self.running[part.index].sequence?, part.tokens as u32)))
                .collect();
            match self.room(&growth) {
                Ok(()) => return Ok(parts),
                Err(Error::CacheFull { .. }) => self.put_back(events),
                Err(error) => return Err(error),
            }
        }
    }

    /// After a step that failed late, tokens may have rows and no token that follows: the last one is taken in again.
    fn step_back(&mut self) -> Result<(), Error> {
        for job in &self.running {
            if let (Some(id), Some(_)) = (job.sequence, job.generate()) {
                let most = job.tokens.len() as u32 - 1;
                if self.engine.sequence(id)?.len() > most {
                    self.engine.truncate(id, most)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the rows of the request that can wait best; where there is only one, it ends.
    fn put_back(&mut self, events: &mut Vec<Event>) {
        let last = |job: &Job| (job.priority, std::cmp::Reverse(job.id));
        let Some(at) = (0..self.running.len()).min_by_key(|&at| last(&self.running[at])) else {
            return;
        };
        let alone = self.running.len() == 1;
        let mut job = self.running.remove(at);
        if alone {
            let usage = job.usage(&self.engine);
            events.push(Event::Finished {
                id: job.id,
                reason: FinishReason::Context,
                usage,
            });
            self.release(job, true);
            return;
        }
        self.stats.preemptions += 1;
        let sequence = job.sequence.take();
        self.give_back(job.id, sequence, false);
        self.enqueue(job);
    }

    /// Gives back what a request that is over holds, or leaves it to its session; `whole` says whether others may begin with it.
    fn release(&mut self, job: Job, whole: bool) {
        match (job.session, job.sequence) {
            (Some(name), Some(sequence)) if whole && !self.is_taken_in(job.id) => {
                let held = (sequence, Some(job.sampler));
                self.sessions.keep(name, held, &mut self.engine);
            }
            (_, sequence) => self.give_back(job.id, sequence, whole),
        }
    }

    fn is_taken_in(&self, id: RequestId) -> bool {
        self.intake.as_ref().is_some_and(|(taken, _)| *taken == id)
    }

    fn give_back(&mut self, id: RequestId, sequence: Option<SequenceId>, whole: bool) {
        if self.is_taken_in(id)
            && let Some((_, intake)) = self.intake.take()
        {
            self.engine.drop_intake(intake);
        }
        if let Some(sequence) = sequence {
            if whole {
                // A sequence that there is.
                let _ = self.engine.publish(sequence);
            }
            self.engine.end(sequence);
        }
    }

    /// Runs a step of these parts.
    fn run(&mut self, parts: &[Part]) -> Result<Outcome, Error> {
        let mut feeds: Vec<Feed<'_>> = Vec::new();
        for (index, job) in self.running.iter_mut().enumerate() {
            let Some(part) = parts.iter().find(|part| part.index == index) else {
                continue;
            };
            let Some(sequence) = job.sequence else {
                continue;
            };
            let from = self.engine.sequence(sequence)?.tokens.len();
            let (tokens, wants) = job.feed(from, part.tokens);
            feeds.push(Feed {
                sequence,
                tokens,
                wants,
            });
        }
        self.engine.step(&feeds)
    }

    /// Does what may fail for want of memory: then somebody is put back and it is tried again in the next step.
    fn tolerate<T>(
        &mut self,
        events: &mut Vec<Event>,
        act: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match act(self) {
            Ok(done) => Ok(Some(done)),
            Err(error @ Error::Backend(BackendError::OutOfMemory { .. })) => {
                if self.running.len() > 1 {
                    self.put_back(events);
                } else if let Some(job) = self.running.pop() {
                    events.push(Event::Failed { id: job.id, error });
                    self.release(job, false);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Hands out what a step gave.
    fn take(&mut self, parts: &[Part], outcome: Outcome, events: &mut Vec<Event>) {
        let mut logits = outcome.logits.into_iter();
        let mut tokens = outcome.tokens.into_iter();
        let mut ended = Vec::new();
        let mut order: Vec<&Part> = parts.iter().collect();
        order.sort_by_key(|part| part.index);
        for part in order {
            let job = &self.running[part.index];
            if self.left(job) > 0 {
                continue;
            }
            let needs = job.generate().is_some_and(Generate::needs_logits);
            let nothing = job.generate().is_some_and(|how| how.max_tokens == Some(0));
            let given = match (nothing, needs) {
                (true, _) => Some(Given::Token(None)),
                (false, true) => logits.next().map(Given::Logits),
                (false, false) => tokens.next().map(Given::Token),
            };
            let Some(given) = given else { continue };
            if let Some(how) = self.accept(part.index, given, events) {
                ended.push((part.index, how));
            }
        }
        // From the last on, so that the others stay where they are.
        for (index, how) in ended.into_iter().rev() {
            let job = self.running.remove(index);
            self.finish(job, how, events);
        }
    }

    /// Gives a running job what follows its tokens.
    fn accept(&mut self, index: usize, given: Given, events: &mut Vec<Event>) -> Option<Ended> {
        let context = self.engine.options().context as usize;
        let job = &mut self.running[index];
        let first = job.generated() == 0;
        let before = job.tokens.len();
        let ended = job.take(given, context, events);
        self.stats.generated_tokens += (job.tokens.len() - before) as u64;
        if let (true, Some(sequence)) = (first, job.sequence) {
            // Others that wait may begin with the same prompt.
            let _ = self.engine.publish(sequence);
        }
        ended
    }

    fn finish(&mut self, job: Job, how: Ended, events: &mut Vec<Event>) {
        let (id, usage) = (job.id, job.usage(&self.engine));
        let whole = match how {
            Ended::Finished(reason) => {
                events.push(Event::Finished { id, reason, usage });
                true
            }
            Ended::Failed(error) => {
                events.push(Event::Failed { id, error });
                false
            }
        };
        self.release(job, whole);
    }

    /// Computes the vectors of requests that want those.
    fn embed(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        let Some(index) = self.running.iter().position(|job| job.generate().is_none()) else {
            return Ok(());
        };
        let mut job = self.running.remove(index);
        let Goal::Embed(pooling) = job.goal else {
            return Ok(());
        };
        // Every token's state is wanted, those that were in the cache too.
        if let Some(sequence) = job.sequence.take() {
            self.engine.end(sequence);
        }
        job.cached = Some(0);
        let made = self.engine.hidden(&job.tokens, pooling);
        let (id, usage) = (job.id, job.usage(&self.engine));
        match made {
            Ok(values) => events.push(Event::Embedding { id, values, usage }),
            Err(error @ Error::Backend(BackendError::DeviceLost { .. })) => return Err(error),
            Err(error) => events.push(Event::Failed { id, error }),
        }
        Ok(())
    }

    /// How it stands.
    pub fn stats(&self) -> Stats {
        let cache = self.engine.cache_use();
        let tokens = self.engine.tokens_held();
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            kv_bytes_used: cache.raw + cache.blocks,
            kv_bytes_reusable: cache.reusable,
            kv_bytes_total: cache.total,
            kv_bytes_raw: cache.raw,
            kv_bytes_blocks: cache.blocks,
            tokens_held: tokens,
            kv_bytes_dense: tokens * self.engine.model().config().dense_bytes_per_token(),
            ..self.stats
        }
    }
}

/// A sequence, how many tokens it has, and the sampler of the session that it was taken from.
type Begun = (SequenceId, usize, Option<Option<Sampler>>);

/// What a step takes in of one running request.
#[derive(Clone, Copy, Debug)]
struct Part {
    index: usize,
    tokens: usize,
    /// What each of them costs, in tokens of a prompt's beginning.
    cost: f64,
    decodes: bool,
}
