//! Requests that share an engine give what each gives alone: together, after others with the same beginning, cancelled in between, and put back for
//! want of room.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use longwave_contract::Backend;
use longwave_runtime::engine::{Engine, EngineOptions};
use longwave_runtime::generate::FinishReason;
use longwave_runtime::model::Model;
use longwave_runtime::policy::{Budget, DeltaKv, Dense, OmniKv, Policy};
use longwave_runtime::sample::SamplingParams;
use longwave_runtime::schedule::{
    Event, Generate, Goal, Pooling, Refusal, Request, RequestId, Scheduler, SchedulerOptions, Usage,
};

use super::compress::{BUDGET, identity, load, tokens};
use super::directory::Spec;

/// What company, a cut, and restored rows may move a logit by, which have a standard deviation near 1: where two tokens are closer, either may come.
const CLOSE: f32 = 5e-2;

/// The policies under test: everything raw, something left out, everything compressed, and both.
const POLICIES: [&str; 4] = ["dense", "omnikv", "identity", "deltakv"];

fn policy(name: &str, model: &Model) -> Result<Arc<dyn Policy>> {
    let budget = Budget { keep: 60, ..BUDGET };
    let layers = model.config().layers;
    Ok(match name {
        "dense" => Arc::new(Dense),
        "omnikv" => Arc::new(OmniKv::new(layers, Some(&[0, 2]), budget)?),
        "identity" => Arc::new(DeltaKv::stored("identity", BUDGET, identity(model, None))),
        _ => {
            let codecs = (0..).zip(identity(model, Some(16)));
            let codecs = codecs.map(|(layer, codec)| (layer % 2 > 0).then_some(codec));
            Arc::new(DeltaKv::new(Some(&[0, 2]), budget, codecs.collect())?)
        }
    })
}

struct Subject<'a> {
    backend: &'a Arc<dyn Backend>,
    model: Arc<Model>,
    policy: Arc<dyn Policy>,
}

impl Subject<'_> {
    fn scheduler(&self, cache_tokens: u32, options: SchedulerOptions) -> Result<Scheduler> {
        let engine = EngineOptions {
            chunk: 48,
            sequences: 4,
            cache_tokens,
            ..EngineOptions::single(512)
        };
        let (backend, model) = (Arc::clone(self.backend), Arc::clone(&self.model));
        let engine = Engine::new(backend, model, Arc::clone(&self.policy), engine)?;
        Ok(Scheduler::new(engine, options))
    }
}

fn plain() -> SchedulerOptions {
    SchedulerOptions {
        prefix_cache: false,
        ..SchedulerOptions::default()
    }
}

pub fn request(prompt: &[u32], most: usize, logprobs: Option<usize>) -> Request {
    Request {
        prompt: prompt.to_vec(),
        goal: Goal::Generate(Box::new(Generate {
            sampling: SamplingParams::greedy(),
            max_tokens: Some(most),
            logprobs,
            ..Generate::default()
        })),
        priority: 0,
        session: None,
    }
}

/// What came of a request.
#[derive(Clone, Debug, Default)]
struct Answer {
    tokens: Vec<u32>,
    /// By how much the first token was ahead of the second one, where that was asked for.
    margins: Vec<f32>,
    usage: Usage,
    reason: Option<FinishReason>,
}

fn collect(events: Vec<Event>, answers: &mut HashMap<RequestId, Answer>) -> Result<()> {
    for event in events {
        match event {
            Event::Token {
                id,
                token,
                logprobs,
            } => {
                let answer = answers.entry(id).or_default();
                answer.tokens.push(token);
                if let Some(logprobs) = logprobs {
                    ensure!(logprobs.top[0].0 == token && logprobs.top[0].1 == logprobs.chosen);
                    answer.margins.push(logprobs.top[0].1 - logprobs.top[1].1);
                }
            }
            Event::Finished { id, reason, usage } => {
                let answer = answers.entry(id).or_default();
                (answer.usage, answer.reason) = (usage, Some(reason));
            }
            Event::Failed { error, .. } => return Err(error.into()),
            Event::Embedding { .. } => bail!("nobody asked for a vector"),
        }
    }
    Ok(())
}

fn drain(scheduler: &mut Scheduler) -> Result<HashMap<RequestId, Answer>> {
    let mut answers = HashMap::new();
    while !scheduler.is_idle() {
        collect(scheduler.step()?, &mut answers)?;
    }
    Ok(answers)
}

/// Every page is free again, but for those of the prefix cache.
fn is_clean(scheduler: &Scheduler) -> Result<()> {
    let stats = scheduler.stats();
    ensure!(
        scheduler.engine().is_sound(),
        "pages are lost or held twice"
    );
    ensure!(
        stats.kv_bytes_used == stats.kv_bytes_reusable && stats.tokens_held == 0,
        "something is still held: {stats:?}"
    );
    Ok(())
}

/// A prompt and how many tokens are to follow.
type Case = (Vec<u32>, usize);

fn cases() -> Vec<Case> {
    let all = tokens(400);
    let of = |range: std::ops::Range<usize>, most| (all[range].to_vec(), most);
    vec![
        of(0..300, 30),
        of(5..15, 60),
        of(100..240, 40),
        of(0..1, 50),
        of(50..98, 25),
        of(200..399, 70),
        of(30..79, 1),
    ]
}

/// Each alone.
fn alone(subject: &Subject<'_>, cases: &[Case]) -> Result<Vec<Answer>> {
    let mut scheduler = subject.scheduler(2048, plain())?;
    cases
        .iter()
        .map(|(prompt, most)| {
            let id = scheduler.submit(request(prompt, *most, Some(2)))?;
            let answer = drain(&mut scheduler)?.remove(&id).context("no answer")?;
            ensure!(answer.tokens.len() == *most && answer.margins.len() == *most);
            Ok(answer)
        })
        .collect()
}

/// Whether an answer is the expected one, up to where two tokens were equally likely.
fn same(expected: &Answer, found: &Answer, what: &str) -> Result<()> {
    ensure!(
        expected.tokens.len() == found.tokens.len(),
        "{what}: {} tokens of {}",
        found.tokens.len(),
        expected.tokens.len()
    );
    let mut pairs = expected.tokens.iter().zip(&found.tokens);
    let Some(at) = pairs.position(|(a, b)| a != b) else {
        return Ok(());
    };
    let margin = expected.margins[at];
    ensure!(
        margin < CLOSE,
        "{what}: token {at} is another one, by a margin of {margin}"
    );
    Ok(())
}

/// With every policy: all at once, some of them late, in a cache with room and in one that has to put some back.
pub fn company(backend: &Arc<dyn Backend>) -> Result<()> {
    let spec = Spec {
        layers: 4,
        ..Spec::default()
    };
    let (_directory, model) = load(backend, &spec)?;
    for name in POLICIES {
        let subject = Subject {
            backend,
            policy: policy(name, &model)?,
            model: Arc::clone(&model),
        };
        let cases = cases();
        let expected = alone(&subject, &cases)?;
        // Prompts of policies that compress go one after another, and meet less often.
        let tight = match name {
            "dense" | "omnikv" => 640,
            _ => 416,
        };
        for cache_tokens in [2048, tight] {
            let options = SchedulerOptions {
                prompt_tokens: 40,
                ..plain()
            };
            let mut scheduler = subject.scheduler(cache_tokens, options)?;
            let mut ids = Vec::new();
            let mut answers = HashMap::new();
            for (index, (prompt, most)) in cases.iter().enumerate() {
                // Half of them choose on the host.
                let logprobs = (index % 2 == 0).then_some(2);
                ids.push(scheduler.submit(request(prompt, *most, logprobs))?);
                if index >= 3 {
                    for _ in 0..4 {
                        collect(scheduler.step()?, &mut answers)?;
                    }
                }
            }
            while !scheduler.is_idle() {
                collect(scheduler.step()?, &mut answers)?;
            }
            for ((id, expected), index) in ids.iter().zip(&expected).zip(0..) {
                let found = answers.get(id).context("a request is lost")?;
                same(expected, found, &format!("{name}, request {index}"))?;
                ensure!(found.reason == Some(FinishReason::MaxTokens));
                ensure!(found.usage.kv_bytes > 0 && found.usage.cached_tokens == 0);
            }
            let preemptions = scheduler.stats().preemptions;
            ensure!(
                (cache_tokens == tight) == (preemptions > 0),
                "{name}: {preemptions} were put back in a cache of {cache_tokens} tokens"
            );
            is_clean(&scheduler)?;
        }
    }
    Ok(())
}

/// What a later request has in common with an earlier one is not computed again, and changes nothing; it goes when others need the room.
pub fn beginnings(backend: &Arc<dyn Backend>) -> Result<()> {
    let spec = Spec {
        layers: 4,
        ..Spec::default()
    };
    let (_directory, model) = load(backend, &spec)?;
    for name in POLICIES {
        let subject = Subject {
            backend,
            policy: policy(name, &model)?,
            model: Arc::clone(&model),
        };
        let compresses = matches!(name, "identity" | "deltakv");
        let all = tokens(400);
        let mut other = all[..300].to_vec();
        other.extend([9, 8, 7, 6]);
        let mut short = all[..290].to_vec();
        short[200] += 1;
        let cases: Vec<Case> = vec![
            (all[..300].to_vec(), 40),
            (all[..300].to_vec(), 40),
            (other, 20),
            (short, 20),
        ];
        let expected = alone(&subject, &cases)?;
        let mut scheduler = subject.scheduler(1024, SchedulerOptions::default())?;
        let mut cached = Vec::new();
        for ((prompt, most), expected) in cases.iter().zip(&expected) {
            let id = scheduler.submit(request(prompt, *most, None))?;
            let found = drain(&mut scheduler)?.remove(&id).context("no answer")?;
            same(expected, &found, name)?;
            cached.push(found.usage.cached_tokens);
            is_clean(&scheduler)?;
        }
        // Whole pages, or sinks and whole blocks.
        let wanted = match compresses {
            true => [0, 264, 264, 136],
            false => [0, 288, 288, 192],
        };
        ensure!(cached == wanted, "{name}: {cached:?} tokens were there");
        ensure!(scheduler.stats().kv_bytes_reusable > 0);
        // Others take it all.
        let fresh: Vec<u32> = (0..400).map(|i| (i * 13 + 3) % 300).collect();
        let mut ids = Vec::new();
        for index in 0..2 {
            ids.push(scheduler.submit(request(&fresh[index..], 60, None))?);
        }
        let answers = drain(&mut scheduler)?;
        ensure!(ids.iter().all(|id| answers.contains_key(id)));
        is_clean(&scheduler)?;
        let id = scheduler.submit(request(&all[..300], 40, None))?;
        let found = drain(&mut scheduler)?.remove(&id).context("no answer")?;
        same(&expected[0], &found, name)?;
        // A sequence of its own goes on in pages that others hold.
        let half = [&all[..300], &found.tokens[..20]].concat();
        let id = scheduler.submit(request(&half, 20, None))?;
        let again = drain(&mut scheduler)?.remove(&id).context("no answer")?;
        ensure!(again.usage.cached_tokens >= 264);
        is_clean(&scheduler)?;
    }
    Ok(())
}

/// A session goes on where it was, tokens that it generated included; its rows go when others need the room, and nothing else does.
pub fn sessions(backend: &Arc<dyn Backend>) -> Result<()> {
    let spec = Spec {
        layers: 4,
        ..Spec::default()
    };
    let (_directory, model) = load(backend, &spec)?;
    for name in POLICIES {
        let subject = Subject {
            backend,
            policy: policy(name, &model)?,
            model: Arc::clone(&model),
        };
        let mut scheduler = subject.scheduler(1024, plain())?;
        let all = tokens(400);
        let in_session = |prompt: &[u32]| Request {
            session: Some("one".into()),
            ..request(prompt, 20, None)
        };
        let id = scheduler.submit(in_session(&all[..150]))?;
        let first = drain(&mut scheduler)?.remove(&id).context("no answer")?;
        let next = [&all[..150], &first.tokens, &all[150..200]].concat();
        let id = scheduler.submit(in_session(&next))?;
        let second = drain(&mut scheduler)?.remove(&id).context("no answer")?;
        // The last token that was generated has no row.
        let cached = second.usage.cached_tokens;
        ensure!(cached == 150 + 19, "{name}: {cached} tokens were there");
        let expected = alone(&subject, &[(next.clone(), 20)])?.remove(0);
        same(&expected, &second, name)?;
        ensure!(scheduler.stats().tokens_held > 0);
        // Others need what it holds.
        for index in 0..3 {
            scheduler.submit(request(&all[index..index + 390], 100, None))?;
        }
        drain(&mut scheduler)?;
        let stats = scheduler.stats();
        ensure!(stats.tokens_held == 0, "{name}: the session is still there");
        is_clean(&scheduler)?;
    }
    Ok(())
}

/// A session that is saved goes on elsewhere as it would have here: on the same backend and on any other, drawing included. What is damaged or of
/// something else is refused whole, by name.
pub fn saved(from: &Arc<dyn Backend>, to: &Arc<dyn Backend>) -> Result<()> {
    let spec = Spec {
        layers: 4,
        ..Spec::default()
    };
    let (_left, left) = load(from, &spec)?;
    let (_right, right) = load(to, &spec)?;
    let folder = tempfile::tempdir()?;
    let all = tokens(400);
    let in_session = |prompt: &[u32]| Request {
        session: Some("one".into()),
        ..request(prompt, 20, Some(2))
    };
    for name in POLICIES {
        let path = folder.path().join(format!("{name}.session"));
        let subject = |backend, model: &Arc<Model>| -> Result<Scheduler> {
            let subject = Subject {
                backend,
                policy: policy(name, model)?,
                model: Arc::clone(model),
            };
            subject.scheduler(1024, plain())
        };
        let (mut here, mut there) = (subject(from, &left)?, subject(to, &right)?);
        ensure!(here.save_session("one", &path).is_err() && !path.exists());
        let id = here.submit(in_session(&all[..310]))?;
        let first = drain(&mut here)?.remove(&id).context("no answer")?;
        let length = here.save_session("one", &path)?;
        ensure!(length == std::fs::metadata(&path)?.len());
        ensure!(there.restore_session("one", &path)? == 310 + 19);
        ensure!(there.fork_session("one", "two")? == 310 + 19);
        ensure!(there.sessions().len() == 2);
        let next = [&all[..310], &first.tokens, &all[310..330]].concat();
        let mut answers = Vec::new();
        for (is_here, session) in [(true, "one"), (false, "one"), (false, "two")] {
            let scheduler = if is_here { &mut here } else { &mut there };
            let id = scheduler.submit(Request {
                session: Some(session.into()),
                ..in_session(&next)
            })?;
            let answer = drain(scheduler)?.remove(&id).context("no answer")?;
            ensure!(answer.usage.cached_tokens == 310 + 19);
            answers.push(answer);
        }
        same(&answers[0], &answers[1], name)?;
        same(&answers[1], &answers[2], name)?;
        // A file of another way to store tokens, and one with a damaged byte in each of some places.
        let held = there.sessions();
        let other = folder.path().join(match name {
            "dense" => continue,
            _ => "dense.session",
        });
        let refusal = there
            .restore_session("one", &other)
            .map_err(|error| error.to_string());
        match name {
            // These store tokens alike.
            "omnikv" => ensure!(refusal.is_ok(), "{refusal:?}"),
            _ => {
                let refusal = refusal.err().context("it fits")?;
                ensure!(
                    refusal.contains("the section policy does not fit"),
                    "{refusal}"
                );
                ensure!(there.sessions() == held);
            }
        }
        let held = there.sessions();
        let whole = std::fs::read(&path)?;
        for part in 1..20 {
            let mut damaged = whole.clone();
            let at = whole.len() * part / 20;
            damaged[at] ^= 1;
            let bad = folder.path().join("bad.session");
            std::fs::write(&bad, damaged)?;
            let refusal = there.restore_session("one", &bad);
            let refusal = refusal.err().context("a byte is another")?.to_string();
            ensure!(
                refusal.contains("is damaged") && refusal.contains("section"),
                "{refusal}"
            );
        }
        ensure!(there.sessions() == held && there.engine().is_sound());
    }
    Ok(())
}

/// What is cancelled gives everything back at once; what cannot be served is refused with the numbers.
pub fn refusals(backend: &Arc<dyn Backend>) -> Result<()> {
    let spec = Spec {
        layers: 4,
        ..Spec::default()
    };
    let (_directory, model) = load(backend, &spec)?;
    for name in POLICIES {
        let subject = Subject {
            backend,
            policy: policy(name, &model)?,
            model: Arc::clone(&model),
        };
        let options = SchedulerOptions {
            queue: 2,
            ..SchedulerOptions::default()
        };
        let all = tokens(400);
        // However far it has come.
        for steps in [0, 1, 3, 9, 20] {
            let mut scheduler = subject.scheduler(512, options.clone())?;
            let kept = scheduler.submit(request(&all[..20], 30, None))?;
            let gone = scheduler.submit(request(&all[..380], 30, None))?;
            let mut answers = HashMap::new();
            for _ in 0..steps {
                collect(scheduler.step()?, &mut answers)?;
            }
            ensure!(scheduler.cancel(gone).is_some());
            ensure!(scheduler.cancel(gone).is_none());
            while !scheduler.is_idle() {
                collect(scheduler.step()?, &mut answers)?;
            }
            ensure!(answers[&kept].tokens.len() == 30);
            is_clean(&scheduler)?;
        }
        let mut scheduler = subject.scheduler(256, options)?;
        let refusal = scheduler.submit(request(&all[..200], 100, None));
        let Err(Refusal::NeverFits { tokens, .. }) = refusal else {
            bail!("{name}: {refusal:?}");
        };
        ensure!(tokens == 300);
        let invalid = [
            scheduler.submit(request(&[], 1, None)),
            scheduler.submit(request(&[100_000], 1, None)),
            scheduler.submit(request(&[1; 513], 1, None)),
        ];
        ensure!(
            invalid
                .iter()
                .all(|refusal| matches!(refusal, Err(Refusal::Invalid(_))))
        );
        scheduler.submit(request(&all[..20], 3, None))?;
        scheduler.submit(request(&all[..20], 3, None))?;
        let full = scheduler.submit(request(&all[..20], 3, None));
        ensure!(matches!(full, Err(Refusal::QueueFull { waiting: 2 })));
        drain(&mut scheduler)?;
        // One that grows until there is no more room ends there.
        let endless = Request {
            goal: Goal::Generate(Box::new(Generate {
                sampling: SamplingParams::greedy(),
                ..Generate::default()
            })),
            ..request(&all[..200], 0, None)
        };
        let id = scheduler.submit(endless)?;
        let found = drain(&mut scheduler)?.remove(&id).context("no answer")?;
        ensure!(found.reason == Some(FinishReason::Context));
        ensure!((40..=57).contains(&found.tokens.len()), "{found:?}");
        is_clean(&scheduler)?;
    }
    Ok(())
}

/// Vectors are the same in one chunk and in many, and those of the last token are those of a prompt's last state.
pub fn vectors(backend: &Arc<dyn Backend>) -> Result<()> {
    let (_directory, model) = load(backend, &Spec::default())?;
    let all = tokens(200);
    let mut found: Vec<[Vec<f32>; 2]> = Vec::new();
    for (name, chunk) in [
        ("dense", 48),
        ("dense", 256),
        ("identity", 48),
        ("identity", 256),
    ] {
        let options = EngineOptions {
            chunk,
            ..EngineOptions::single(512)
        };
        let (backend, policy) = (Arc::clone(backend), policy(name, &model)?);
        let engine = Engine::new(backend, Arc::clone(&model), policy, options)?;
        let mut scheduler = Scheduler::new(engine, SchedulerOptions::default());
        let vectors = [Pooling::Mean, Pooling::Last].map(|pooling| {
            scheduler.submit(Request {
                goal: Goal::Embed(pooling),
                ..request(&all, 0, None)
            })?;
            let mut events = Vec::new();
            while !scheduler.is_idle() {
                events.extend(scheduler.step()?);
            }
            match events.pop() {
                Some(Event::Embedding { values, .. }) => Ok(values),
                other => bail!("{other:?}"),
            }
        });
        let [mean, last] = vectors;
        found.push([mean?, last?]);
        is_clean(&scheduler)?;
    }
    let width = model.config().width as usize;
    for vectors in &found {
        for (values, expected) in vectors.iter().zip(&found[0]) {
            ensure!(values.len() == width && values.iter().any(|value| *value != 0.0));
            let apart = values.iter().zip(expected).map(|(a, b)| (a - b).abs());
            let worst = apart.fold(0.0, f32::max);
            ensure!(worst < CLOSE, "vectors are apart by {worst}");
        }
    }
    ensure!(found[0][0] != found[0][1]);
    Ok(())
}
