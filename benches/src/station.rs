//! One backend with one policy, measured again and again from the same depth: one sequence, or several that decode together.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use longwave_cli::codecs::Policies;
use longwave_cli::kv::{KvPolicy, Lanes};
use longwave_cli::model::loaded_with_room;
use longwave_cli::output::Notes;
use longwave_contract::Backend;
use longwave_runtime::calibrate;
use longwave_runtime::engine::{Engine, EngineOptions, Feed, Wants};
use longwave_runtime::kv::SequenceId;
use longwave_runtime::model::Model;
use longwave_runtime::sample::Sampling;

use crate::args::Test;
use crate::ceiling::Ceiling;
use crate::meter::Meter;
use crate::profile::Profile;
use crate::subject::Subject;
use crate::work::{Work, prompt_flops};

/// A model on one backend.
pub struct Site {
    pub backend: Arc<dyn Backend>,
    pub model: Arc<Model>,
    /// How its engines are set up.
    pub options: EngineOptions,
    pub ceiling: Ceiling,
    /// How many restored rows there is room for.
    lanes: Lanes,
    /// Bytes of all stations' buffers.
    all: Arc<AtomicU64>,
}

impl Site {
    /// Measures what the backend reaches, and brings the model there. `options` are those of the station of each policy.
    ///
    /// # Errors
    /// The model does not fit, or the device fails.
    pub fn new(
        backend: Arc<dyn Backend>,
        subject: &Subject,
        (options, kvs): (EngineOptions, &[KvPolicy]),
        notes: &Notes,
    ) -> Result<Self> {
        notes.note(format_args!(
            "measuring what {} reaches",
            backend.caps().backend
        ));
        let ceiling = Ceiling::measure(&backend)?;
        let count = kvs.len() as u32;
        let permille: u32 = kvs.iter().map(KvPolicy::permille).sum();
        let rows = |lanes| {
            let rows = kvs
                .iter()
                .map(|kv| kv.resident_rows(options.context, lanes));
            rows.sum::<u32>().div_ceil(count.max(1))
        };
        let restored = kvs
            .iter()
            .map(|kv| kv.restored_rows(options.context, subject.config(), backend.caps()));
        let reach = kvs.iter().map(KvPolicy::positions).max().unwrap_or(0);
        let loaded = EngineOptions {
            context: options.context.max(reach.min(subject.config().context)),
            engines: count,
            cache_permille: permille.div_ceil(count.max(1)),
            restored_rows: restored.max().unwrap_or(options.context),
            ..options.clone()
        };
        let (model, lanes) = loaded_with_room(&loaded, &rows, |loaded| {
            subject.load(&backend, loaded, notes)
        })?;
        Ok(Site {
            lanes,
            backend,
            model,
            options,
            ceiling,
            all: Arc::default(),
        })
    }
}

impl Site {
    /// The options of a policy's engine.
    pub fn options(&self, kv: &KvPolicy) -> EngineOptions {
        EngineOptions {
            cache_permille: kv.permille(),
            resident_rows: kv.resident_rows(self.options.context, self.lanes),
            restored_rows: kv.restored_rows(
                self.options.context,
                self.model.config(),
                self.backend.caps(),
            ),
            ..self.options.clone()
        }
    }
}

/// What a test does, and what it took of the device.
#[derive(Clone, Debug, Default)]
pub struct Footprint {
    /// For each token.
    pub work: Work,
    /// Bytes of cache at the end.
    pub kv_bytes: u64,
    /// The most memory of the device that was in use.
    pub peak: u64,
    /// The time of each op, where it was asked for.
    pub profile: Option<Profile>,
}

/// A policy's engine, and the sequence that it holds.
pub struct Station {
    /// Which site it is at.
    pub site: usize,
    /// The policy.
    pub kv: KvPolicy,
    engine: Engine,
    meter: Arc<Meter>,
    tokens: Vec<u32>,
    /// After the last token whose logits were read.
    logits: Vec<f32>,
    /// The one that prompts enter, and others that decode with it.
    sequences: Vec<SequenceId>,
    /// Tokens of each sequence that were in blocks when a test began.
    compressed: u32,
    /// Tokens up to where all are in blocks or sinks.
    floor: u32,
}

impl Station {
    /// Makes the policy and its engine.
    ///
    /// # Errors
    /// A codec cannot be had, there is no room, or the device fails.
    pub fn new(
        (index, site): (usize, &Site),
        policies: &mut Policies<'_>,
        kv: &KvPolicy,
    ) -> Result<Self> {
        let policy = policies.policy(kv)?;
        let meter = Arc::new(Meter::new(&site.backend, &site.all));
        let options = site.options(kv);
        let tokens = calibrate::draw(options.context as usize, site.model.config().vocabulary);
        let backend: Arc<dyn Backend> = Arc::clone(&meter) as _;
        let mut engine = Engine::new(backend, Arc::clone(&site.model), policy, options)
            .with_context(|| {
                let device = &site.backend.caps().device;
                format!("--kv {kv} cannot be set up on {device} beside the others")
            })?;
        Ok(Station {
            site: index,
            kv: kv.clone(),
            sequences: vec![engine.start()],
            engine,
            meter,
            tokens,
            logits: Vec::new(),
            compressed: 0,
            floor: 0,
        })
    }

    /// The codecs, and the bytes that they make of a token.
    pub fn codec(&self) -> Option<String> {
        let (names, layers, bytes) = self.engine.codecs()?;
        let names = names.join(" and ");
        Some(format!(
            "codec {names}, {bytes:.0} bytes of a token in {layers} layers together"
        ))
    }

    /// Whether restored rows stay from one token to the next.
    pub fn is_resident(&self) -> bool {
        self.engine.is_resident()
    }

    /// Brings the sequence to where a test begins, and runs the test once, so that everything that is made once is made.
    ///
    /// # Errors
    /// The device fails, or the logits are no numbers.
    pub fn prepare(&mut self, test: Test, profiles: bool) -> Result<Footprint> {
        let start = test.start();
        for other in self.sequences.drain(1..) {
            self.engine.end(other);
        }
        if self.engine.sequence(self.first())?.len() > start {
            self.engine.end(self.first());
            self.sequences = vec![self.engine.start()];
        }
        self.fill(self.first(), start)?;
        self.compressed = self.engine.sequence(self.first())?.compressed();
        self.floor = match self.compressed {
            0 => 0,
            _ => self.engine.history(self.first())?.end,
        };
        if test.sequences > 1 {
            // Copies have pages and blocks of their own, as if each had been taken in.
            let snapshot = self.engine.save(self.first())?;
            for _ in 1..test.sequences {
                self.sequences.push(self.engine.load(&snapshot)?);
            }
        }
        let mut footprint = if test.generates {
            self.rehearse(test, profiles)?
        } else {
            self.rehearse_prompt(test, profiles)?
        };
        // A device that computes nonsense is not worth its time.
        ensure!(
            !self.logits.is_empty() && self.logits.iter().all(|logit| logit.is_finite()),
            "--kv {}: after {test} the logits hold no numbers: the device or the backend is broken, and is not measured",
            self.kv
        );
        for sequence in &self.sequences {
            footprint.kv_bytes += self.engine.kv_bytes(*sequence)?;
        }
        self.rewind(test)?;
        footprint.peak = self.meter.peak();
        Ok(footprint)
    }

    fn rehearse(&mut self, test: Test, profiles: bool) -> Result<Footprint> {
        let (half, end) = (test.tokens / 2, test.start() + test.tokens);
        self.generate(test.start(), half)?;
        // Half-way, the cache is as long as it is on average.
        let at = test.start() + half;
        let token = self.token(at);
        let feeds: Vec<_> = self
            .sequences
            .iter()
            .map(|id| greedy(*id, &token))
            .collect();
        let recording = self.engine.stage(&feeds)?;
        let work = Work::of_step(&recording, &*self.meter)?.shared_by(test.sequences);
        // The logits of the last token are looked at.
        let profile = self.profiled(profiles, |station| match at + 1 == end {
            true => station.look(at),
            false => station.generate(at, 1),
        })?;
        let at = at + u32::from(profile.is_some());
        if at < end {
            self.generate(at, end - at - 1)?;
            self.look(end - 1)?;
        }
        Ok(Footprint {
            work,
            profile,
            ..Footprint::default()
        })
    }

    fn rehearse_prompt(&mut self, test: Test, profiles: bool) -> Result<Footprint> {
        let (start, config) = (test.start(), self.engine.model().config());
        let flops = prompt_flops(config, start, test.tokens) / f64::from(test.tokens);
        let end = start + test.tokens;
        self.fill(self.first(), end)?;
        if profiles {
            self.rewind(test)?;
        }
        let profile = self.profiled(profiles, |station| station.fill(station.first(), end))?;
        Ok(Footprint {
            work: Work { bytes: 0.0, flops },
            profile,
            ..Footprint::default()
        })
    }

    /// The time of each op of what is done, where it is asked for.
    fn profiled(
        &mut self,
        wanted: bool,
        what: impl FnOnce(&mut Station) -> Result<()>,
    ) -> Result<Option<Profile>> {
        if !wanted {
            return Ok(None);
        }
        self.meter.profile_begin();
        let done = what(self);
        let profile = self.meter.profile_end();
        done?;
        profile.map(Some)
    }

    /// Runs a test from where [`Station::prepare`] left it, and goes back there.
    ///
    /// # Errors
    /// The device fails.
    pub fn measure(&mut self, test: Test) -> Result<Duration> {
        let start = Instant::now();
        if test.generates {
            self.generate(test.start(), test.tokens)?;
        } else {
            self.fill(self.first(), test.start() + test.tokens)?;
        }
        let took = start.elapsed();
        self.rewind(test)?;
        Ok(took)
    }

    /// The sequence that prompts enter.
    fn first(&self) -> SequenceId {
        self.sequences[0]
    }

    /// Takes tokens of a sequence in until there are `length`.
    fn fill(&mut self, sequence: SequenceId, length: u32) -> Result<()> {
        let have = self.engine.sequence(sequence)?.len();
        if have == length {
            return Ok(());
        }
        let tokens = &self.tokens[have as usize..length as usize];
        self.logits = self.engine.prefill(sequence, tokens, &mut |_| ())?;
        Ok(())
    }

    /// Decodes as users do, greedily: after a token of the text, each that is chosen is the next of its sequence.
    fn generate(&mut self, start: u32, count: u32) -> Result<()> {
        let mut tokens = vec![self.token(start); self.sequences.len()];
        for _ in 0..count {
            let feeds = self.sequences.iter().zip(&tokens);
            let feeds: Vec<_> = feeds.map(|(id, token)| greedy(*id, token)).collect();
            let outcome = self.engine.step(&feeds)?;
            let chosen = outcome.tokens.into_iter();
            let chosen = chosen.map(|token| Ok([token.context("the logits hold no numbers")?]));
            tokens = chosen.collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Takes one token of each sequence in and reads the logits after those of the first.
    fn look(&mut self, position: u32) -> Result<()> {
        let token = self.token(position);
        let feeds = self.sequences.iter().map(|&sequence| Feed {
            wants: Wants::Logits,
            ..greedy(sequence, &token)
        });
        let outcome = self.engine.step(&feeds.collect::<Vec<_>>())?;
        self.logits = outcome.logits.into_iter().next().unwrap_or_default();
        Ok(())
    }

    /// Goes back to where the test begins. A policy that compresses may have made blocks of what was not in any: then all that was not is taken in
    /// once more.
    fn rewind(&mut self, test: Test) -> Result<()> {
        let start = test.start();
        for sequence in self.sequences.clone() {
            let now = self.engine.sequence(sequence)?.compressed();
            let back_to = if now == self.compressed {
                start
            } else {
                self.floor
            };
            self.engine.truncate(sequence, back_to)?;
            self.fill(sequence, start)?;
            let sequence = self.engine.sequence(sequence)?;
            let (length, compressed) = (sequence.len(), sequence.compressed());
            ensure!(
                (length, compressed) == (start, self.compressed),
                "--kv {}: there are {length} tokens, {compressed} of them compressed, where a test began with {start} and {}",
                self.kv,
                self.compressed
            );
        }
        Ok(())
    }

    fn token(&self, position: u32) -> [u32; 1] {
        [self.tokens.get(position as usize).copied().unwrap_or(0)]
    }
}

fn greedy(sequence: SequenceId, tokens: &[u32]) -> Feed<'_> {
    Feed {
        sequence,
        tokens,
        wants: Wants::Token(Sampling::greedy()),
    }
}
