//! `bench requests`: requests that share an engine, without a network between: how much more many decode than one, and what short requests and
//! those that decode wait for while a long prompt is taken in.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use longwave_cli::codecs::Policies;
use longwave_cli::kv::KvPolicy;
use longwave_cli::output::{Notes, Output};
use longwave_contract::kv::PAGE;
use longwave_runtime::calibrate;
use longwave_runtime::engine::{Engine, EngineOptions};
use longwave_runtime::sample::SamplingParams;
use longwave_runtime::schedule::{
    Event, Generate, Goal, Request, RequestId, Scheduler, SchedulerOptions,
};
use serde::Serialize;

use crate::args::{DevicesArguments, SubjectArguments};
use crate::result::COMMIT;
use crate::serve::Spread;
use crate::station::Site;
use crate::subject::Subject;

/// Measure requests that share an engine
#[derive(Args, Debug)]
pub struct RequestsArguments {
    /// The model
    #[command(flatten)]
    pub subject: SubjectArguments,
    /// The devices
    #[command(flatten)]
    pub devices: DevicesArguments,
    /// What the cache keeps, as for `longwave run`
    #[arg(long, value_name = "POLICY", default_value = "dense")]
    pub kv: KvPolicy,
    /// Requests that are under way at a time
    #[arg(short = 'c', long, value_name = "N,..", value_delimiter = ',', default_value = "1,16", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub concurrency: Vec<u32>,
    /// Tokens of each prompt
    #[arg(short = 'p', long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: u32,
    /// Tokens of each answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
    pub answer_tokens: u32,
    /// Tokens of a prompt beside which short requests come; 0 for none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub beside: u32,
    /// Tokens of the prompts that come beside it
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub short_tokens: u32,
    /// Milliseconds between two of those
    #[arg(long, value_name = "MS", default_value_t = 250)]
    pub every_ms: u64,
    /// How long requests that decode may wait for others' prompts, in milliseconds; an aim
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub stall_ms: u32,
}

/// What one backend did.
#[derive(Debug, Serialize)]
struct Found {
    build_commit: &'static str,
    model: String,
    weights: &'static str,
    backend: &'static str,
    device: String,
    kv: String,
    prompt_tokens: u32,
    answer_tokens: u32,
    throughput: Vec<Throughput>,
    beside: Option<Beside>,
}

/// How much requests decode together.
#[derive(Debug, Serialize)]
struct Throughput {
    concurrency: u32,
    /// Tokens of answers a second, prompts included in the time.
    tokens_per_second: f64,
    /// Over that of the first concurrency.
    times: f64,
    ttft_ms: Spread,
    itl_ms: Spread,
}

/// What others wait for while a long prompt is taken in.
#[derive(Debug, Serialize)]
struct Beside {
    tokens: u32,
    /// Until its first token.
    seconds: f64,
    short_tokens: u32,
    short_requests: usize,
    /// Of short requests, to their first token.
    short_ttft_ms: Spread,
    /// Of a request that decodes all the while, from token to token.
    itl_ms: Spread,
}

impl RequestsArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model, a codec or a device cannot be used, or a request fails.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let mut subject = Subject::open(&self.subject, notes)?;
        let most = self.prompt_tokens + self.answer_tokens;
        let context = most.max(self.beside + 64).next_multiple_of(PAGE);
        subject.reach(context)?;
        let context = context.min(subject.config().context);
        ensure!(
            most <= context && self.beside < context,
            "the model's context of {context} tokens is too short"
        );
        self.kv.check(subject.config().layers)?;
        let sequences = self.concurrency.iter().copied().max().unwrap_or(1).max(4);
        for choice in self.devices.choices()? {
            let backend = choice.open(notes)?;
            let chunk = EngineOptions::chunk_for(backend.caps(), subject.config()).min(2048);
            let options = EngineOptions {
                chunk: chunk.min(context).max(sequences),
                sequences,
                cache_tokens: (most.next_multiple_of(PAGE) * sequences)
                    .max(context + 16 * (self.short_tokens + 4096)),
                ..EngineOptions::single(context)
            };
            let kvs = [self.kv.clone()];
            let site = Site::new(backend, &subject, (options, &kvs), notes)?;
            let mut policies =
                Policies::new(&site.backend, &site.model, subject.ground(&[]), notes);
            let policy = policies.policy(&self.kv)?;
            let engine = Engine::new(
                Arc::clone(&site.backend),
                Arc::clone(&site.model),
                policy,
                site.options(&self.kv),
            )?;
            let mut desk = Desk {
                scheduler: Scheduler::new(
                    engine,
                    SchedulerOptions {
                        stall_ms: self.stall_ms,
                        prefix_cache: false,
                        ..SchedulerOptions::default()
                    },
                ),
                vocabulary: subject.config().vocabulary,
                next: 0,
            };
            // What is made once is made, for all numbers of requests on the way.
            for &concurrency in &self.concurrency {
                self.together(&mut desk, concurrency, concurrency)?;
            }
            let mut throughput: Vec<Throughput> = Vec::new();
            for &concurrency in &self.concurrency {
                let mut found = self.together(&mut desk, concurrency, 3 * concurrency)?;
                if let Some(first) = throughput.first() {
                    found.times = found.tokens_per_second / first.tokens_per_second;
                }
                throughput.push(found);
            }
            let beside = match self.beside {
                0 => None,
                tokens => {
                    // Warms up.
                    self.beside(&mut desk, tokens.div_ceil(8))?;
                    Some(self.beside(&mut desk, tokens)?)
                }
            };
            let caps = site.backend.caps();
            Output::stdout().json(&Found {
                build_commit: COMMIT,
                model: subject.name().to_owned(),
                weights: subject.weights()?,
                backend: caps.backend,
                device: caps.device.clone(),
                kv: self.kv.to_string(),
                prompt_tokens: self.prompt_tokens,
                answer_tokens: self.answer_tokens,
                throughput,
                beside,
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// So many requests, `concurrency` of them under way at a time.
    fn together(&self, desk: &mut Desk, concurrency: u32, count: u32) -> Result<Throughput> {
        let mut clock = Clock::default();
        let begun = Instant::now();
        let mut submitted = 0;
        let mut under_way = 0;
        while submitted < count || under_way > 0 {
            while submitted < count && under_way < concurrency {
                let id = desk.submit(self.prompt_tokens, self.answer_tokens)?;
                clock.sent(id);
                (submitted, under_way) = (submitted + 1, under_way + 1);
            }
            under_way -= clock.took(desk.scheduler.step()?)?.len() as u32;
        }
        let tokens = f64::from(count) * f64::from(self.answer_tokens);
        Ok(Throughput {
            concurrency,
            tokens_per_second: tokens / begun.elapsed().as_secs_f64(),
            times: 1.0,
            ttft_ms: Spread::of(&clock.first),
            itl_ms: Spread::of(&clock.between),
        })
    }

    /// A request that decodes, a long prompt, and short requests beside them until the long one has its first token.
    fn beside(&self, desk: &mut Desk, tokens: u32) -> Result<Beside> {
        let context = desk.scheduler.engine().options().context;
        let talker = desk.submit(32, context - 32)?;
        let mut clock = Clock::default();
        clock.sent(talker);
        while clock.last.get(&talker).is_none_or(|(_, some)| !some) {
            clock.took(desk.scheduler.step()?)?;
        }
        clock.between.clear();
        clock.first.clear();
        let long = desk.submit(tokens, 2)?;
        clock.sent(long);
        let begun = Instant::now();
        let mut due = begun;
        let mut short = Vec::new();
        let mut talked = Vec::new();
        let seconds = loop {
            if Instant::now() >= due {
                let id = desk.submit(self.short_tokens, 2)?;
                clock.sent(id);
                short.push(id);
                due += Duration::from_millis(self.every_ms);
            }
            let before = clock.between.len();
            let events = desk.scheduler.step()?;
            let talks = events
                .iter()
                .any(|event| matches!(event, Event::Token { id, .. } if *id == talker));
            clock.took_of(events, talker)?;
            if talks {
                talked.extend(clock.between.drain(before..));
            }
            if clock.firsts.contains_key(&long) {
                break begun.elapsed().as_secs_f64();
            }
        };
        desk.scheduler.cancel(talker);
        while !desk.scheduler.is_idle() {
            clock.took(desk.scheduler.step()?)?;
        }
        let times: Vec<f64> = short
            .iter()
            .filter_map(|id| clock.firsts.get(id).copied())
            .collect();
        ensure!(times.len() == short.len(), "a short request has no token");
        Ok(Beside {
            tokens,
            seconds,
            short_tokens: self.short_tokens,
            short_requests: short.len(),
            short_ttft_ms: Spread::of(&times),
            itl_ms: Spread::of(&talked),
        })
    }
}

/// A scheduler, and prompts for it.
struct Desk {
    scheduler: Scheduler,
    vocabulary: u32,
    next: u32,
}

impl Desk {
    /// A greedy request with a prompt of its own.
    fn submit(&mut self, prompt: u32, answer: u32) -> Result<RequestId> {
        let mut tokens = calibrate::draw(prompt as usize, self.vocabulary);
        self.next += 1;
        tokens[0] = self.next % self.vocabulary;
        let request = Request {
            prompt: tokens,
            goal: Goal::Generate(Box::new(Generate {
                sampling: SamplingParams::greedy(),
                max_tokens: Some(answer as usize),
                ..Generate::default()
            })),
            priority: 0,
            session: None,
        };
        Ok(self.scheduler.submit(request)?)
    }
}

/// When what came, in milliseconds.
#[derive(Default)]
struct Clock {
    /// When a request was sent or had its last token, and whether it has one.
    last: HashMap<RequestId, (Instant, bool)>,
    first: Vec<f64>,
    firsts: HashMap<RequestId, f64>,
    between: Vec<f64>,
}

impl Clock {
    fn sent(&mut self, id: RequestId) {
        self.last.insert(id, (Instant::now(), false));
    }

    /// Takes note of events; returns the requests that ended.
    fn took(&mut self, events: Vec<Event>) -> Result<Vec<RequestId>> {
        let now = Instant::now();
        let mut ended = Vec::new();
        for event in events {
            match event {
                Event::Token { id, .. } => {
                    let last = self.last.get_mut(&id).context("a token of no request")?;
                    let time = (now - last.0).as_secs_f64() * 1e3;
                    if last.1 {
                        self.between.push(time);
                    } else {
                        self.first.push(time);
                        self.firsts.insert(id, time);
                    }
                    *last = (now, true);
                }
                Event::Finished { id, .. } => ended.push(id),
                Event::Failed { error, .. } => return Err(error.into()),
                Event::Embedding { .. } => {}
            }
        }
        Ok(ended)
    }

    /// As [`Clock::took`], with the times between tokens of one request only.
    fn took_of(&mut self, events: Vec<Event>, only: RequestId) -> Result<()> {
        let (of, others): (Vec<Event>, Vec<Event>) = events
            .into_iter()
            .partition(|event| matches!(event, Event::Token { id, .. } if *id == only));
        let before = self.between.len();
        self.took(others)?;
        self.between.truncate(before);
        self.took(of)?;
        Ok(())
    }
}
