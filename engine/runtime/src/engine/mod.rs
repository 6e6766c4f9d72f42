//! The engine: sequences of one model on one backend.
//!
//! A step takes some rows of some sequences through the model: chunks of prompts and single decoded tokens alike. What it does is
//! recorded once per bucket of rows and context, and replayed; tokens, positions, slots and views go to the device as tables.

mod buffers;
mod check;
mod feed;
mod held;
mod hidden;
mod intake;
mod layers;
mod plans;
mod prefix;
mod resident;
mod room;
mod snapshot;
mod step;
mod tables;

use std::collections::HashMap;
use std::sync::Arc;

use longwave_contract::kv::{BLOCK, PAGE};
use longwave_contract::{Allocation, Backend, Caps, Recording, Ticket};

use crate::codec::{Codec, Placed};
use crate::error::Error;
use crate::kv::{KvPool, PoolSize, Sequence, SequenceId};
use crate::model::{Model, ModelConfig};
use crate::policy::{Budget, Policy, Role};
use buffers::{Activations, Choice, Layered};
use check::check_codec;
use feed::Given;

pub use feed::{Feed, Outcome, Wants};
pub use intake::{Intake, Progress};
pub(crate) use layers::Probe;
use layers::Probing;
use plans::Plans;
use prefix::PrefixCache;
use resident::Resident;
pub use room::CacheUse;
pub use snapshot::{LayerSnapshot, Snapshot};
use tables::Tables;

/// What an engine is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Tokens that one sequence may hold; at most the model's context.
    pub context: u32,
    /// Tokens that all sequences together may hold.
    pub cache_tokens: u32,
    /// Rows of a step at most: the size of a prompt's chunks.
    pub chunk: u32,
    /// Sequences that may share a step.
    pub sequences: u32,
    /// Engines of this kind that will share the model: loading leaves room for all of them.
    pub engines: u32,
    /// Thousandths of a dense cache's bytes that the cache is expected to take; below 1,000 for policies that compress.
    pub cache_permille: u32,
    /// Restored rows that each following layer keeps for a sequence from one decode step to the next, where there is room and a choice fits into
    /// them ([`Budget::resident_rows`]); 0 where all layers restore into rows that they share.
    pub resident_rows: u32,
    /// Rows that a decode step restores for a sequence at most, where all layers share them: the context, unless every layer that compresses
    /// reads what others choose, or what is stored as it is. What is allocated follows from the policy; loading leaves room by this.
    pub restored_rows: u32,
    /// For measurements: the overlap of choices that is planted ([`longwave_contract::op::planted`]).
    pub overlap: Option<u32>,
}

impl EngineOptions {
    /// One sequence of up to `context` tokens, prompts in chunks of 512.
    pub fn single(context: u32) -> Self {
        EngineOptions {
            context,
            cache_tokens: context,
            chunk: 512,
            sequences: 1,
            engines: 1,
            cache_permille: 1000,
            resident_rows: 0,
            restored_rows: context,
            overlap: None,
        }
    }

    /// The chunk for a device and a model: longer where matrix units do the products, which need more rows to be busy, and the longer the
    /// narrower the model is, as far as activations stay small beside weights.
    pub fn chunk_for(caps: &Caps, config: &ModelConfig) -> u32 {
        const ELEMENTS: u32 = 1 << 25;
        match caps.half_products {
            true => {
                let rows = (ELEMENTS / config.inner.max(1)).clamp(2048, 8192);
                1 << rows.ilog2()
            }
            false => 512,
        }
    }

    /// Bytes that the engine will allocate for the cache.
    pub fn cache_bytes(&self, config: &ModelConfig) -> u64 {
        u64::from(self.cache_tokens.div_ceil(PAGE).max(1))
            * u64::from(PAGE)
            * config.dense_bytes_per_token()
            * u64::from(self.cache_permille)
            / 1000
    }

    /// Bytes that the engine will allocate for activations, logits and tables. What codecs bring along comes on top: their matrices, and the inner
    /// layers of networks.
    pub fn work_bytes(&self, config: &ModelConfig) -> u64 {
        let activations = Activations::descs(self, config);
        // As much as any policy's choice may take.
        let most = Budget {
            keep: u32::MAX,
            ..Budget::default()
        };
        let choice = Choice::descs(self, most);
        let buffers = activations.iter().chain(&choice);
        let layered = match self.cache_permille {
            1000 => 0,
            _ => Layered::bytes(self, config),
        };
        let raw = (self.cache_permille != 1000).then_some(2 * BLOCK);
        buffers.map(|desc| desc.bytes).sum::<u64>()
            + tables::Layout::new(self, raw).bytes
            + layered
            + Resident::bytes(self, config)
    }
}

/// Runs one model for some sequences.
pub struct Engine {
    backend: Arc<dyn Backend>,
    model: Arc<Model>,
    policy: Arc<dyn Policy>,
    options: EngineOptions,
    pool: KvPool,
    activations: Activations,
    choice: Option<Choice>,
    codecs: Vec<Option<Placed>>,
    codec_bytes: u64,
    /// There where a layer compresses.
    layered: Option<Layered>,
    /// There where restored rows stay.
    resident: Option<Resident>,
    tables: Tables,
    plans: Plans,
    /// The last run.
    newest: Option<Ticket>,
    sequences: HashMap<SequenceId, Sequence>,
    /// There where sequences share beginnings.
    prefix: Option<PrefixCache>,
    next_sequence: u32,
    next_generation: u32,
}

impl Engine {
    /// Allocates cache and working memory for a model that lies on `backend`.
    ///
    /// # Errors
    /// When the options exceed the model's context or the one that it was loaded for, or the device has no room.
    pub fn new(
        backend: Arc<dyn Backend>,
        model: Arc<Model>,
        policy: Arc<dyn Policy>,
        options: EngineOptions,
    ) -> Result<Self, Error> {
        let config = model.config();
        if options.context == 0 || options.context > config.context {
            return Err(Error::ContextExceeded {
                tokens: u64::from(options.context),
                context: config.context,
            });
        }
        if options.context > model.rope_positions() {
            return Err(Error::ContextExceeded {
                tokens: u64::from(options.context),
                context: model.rope_positions(),
            });
        }
        if options.chunk == 0 || options.sequences == 0 {
            return Err(Error::Parameter(
                "an engine needs room for one row of one sequence at least".into(),
            ));
        }
        // Neither sinks nor tail are ever more than a sequence.
        let sinks = policy.sinks().min(options.context);
        let mut shared = Vec::new();
        let codecs = (0..config.layers)
            .map(|layer| {
                let codec = policy.codec(layer);
                let placed = codec.map(|codec| Placed::new(&backend, codec, &mut shared));
                placed.transpose()
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let shapes: Vec<_> = codecs
            .iter()
            .map(|codec| codec.as_ref().map(Placed::shape))
            .collect();
        for (layer, shape) in (0u32..).zip(&shapes) {
            check_codec(layer, *shape, config, &options, sinks)?;
        }
        let compresses = shapes.iter().any(Option::is_some);
        let tail = policy.tail().min(options.context);
        let tail_pages = sinks.div_ceil(PAGE) + tail.div_ceil(PAGE) + 2;
        let size = PoolSize {
            tokens: options.cache_tokens,
            // A prompt's new tail is written before its old one is given back.
            tail_pages: tail_pages * (options.sequences + 1),
            blocks: options.cache_tokens / BLOCK + options.sequences,
        };
        let pool = KvPool::new(&backend, &shapes, config.shape, size)?;
        let layered = match compresses {
            true => Some(Layered::new(
                &backend,
                &options,
                config,
                &codecs,
                (sinks, tail),
                restored_rows(&*policy, &codecs, options.context, |codec| {
                    reads_stored(&*backend, &model) && codec.is_rotated()
                }),
            )?),
            false => None,
        };
        let codec_bytes = shared.iter().map(|(_, buffer)| buffer.bytes()).sum();
        let buffers = Activations::descs(&options, config)
            .iter()
            .map(|desc| Allocation::new(&backend, desc))
            .collect::<Result<_, _>>()?;
        let choice = policy
            .budget()
            .map(|budget| Choice::new(&backend, &options, budget))
            .transpose()?;
        let resident = Resident::new(&backend, &options, config, &*policy)?;
        let raw = compresses.then_some(sinks.saturating_add(tail));
        let tables = Tables::new(&backend, &options, raw)?;
        Ok(Engine {
            plans: Plans::new(Arc::clone(&backend), config.layers),
            activations: Activations { buffers },
            choice,
            codecs,
            codec_bytes,
            layered,
            resident,
            backend,
            model,
            policy,
            options,
            pool,
            tables,
            newest: None,
            sequences: HashMap::new(),
            prefix: None,
            next_sequence: 0,
            next_generation: 0,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// What the engine was made for.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The policy's name.
    pub fn policy(&self) -> &str {
        self.policy.name()
    }

    /// How a layer's old tokens are compressed; `None` where they stay as they are.
    pub(crate) fn codec(&self, layer: u32) -> Option<&Arc<dyn Codec>> {
        self.policy.codec(layer)
    }

    /// Tokens at the beginning of a sequence that layers which compress never do; 0 where none does.
    pub(crate) fn uncompressed_sinks(&self) -> u32 {
        if self.compresses() {
            self.policy.sinks()
        } else {
            0
        }
    }

    /// Tokens at the beginning of a sequence that are never compressed.
    fn sinks(&self) -> u32 {
        self.policy.sinks().min(self.options.context)
    }

    /// Starts an empty sequence.
    pub fn start(&mut self) -> SequenceId {
        let id = SequenceId(self.next_sequence);
        self.next_sequence += 1;
        let sequence = Sequence {
            generation: self.generation(),
            ..Sequence::default()
        };
        self.sequences.insert(id, sequence);
        id
    }

    /// A generation that no sequence has. Four billion later one might come again, long after what it named.
    fn generation(&mut self) -> u32 {
        self.next_generation = self.next_generation.wrapping_add(1).max(1);
        self.next_generation
    }

    /// Ends a sequence and gives its pages back.
    pub fn end(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.remove(&id) {
            self.pool.pages.give_back(sequence.pages);
            self.pool.tail.give_back(sequence.tail);
            self.pool.blocks.give_back(sequence.blocks);
        }
    }

    /// What a sequence holds.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn sequence(&self, id: SequenceId) -> Result<&Sequence, Error> {
        self.sequences.get(&id).ok_or(Error::NoSequence(id))
    }

    /// Whether old tokens are compressed: then prompts go layer by layer.
    pub fn compresses(&self) -> bool {
        self.layered.is_some()
    }

    /// Whether restored rows stay between decode steps.
    pub fn is_resident(&self) -> bool {
        self.resident.is_some()
    }

    /// The names of the codecs, how many layers compress, and the bytes that all of them together make of a token; `None` where no layer compresses.
    pub fn codecs(&self) -> Option<(Vec<&'static str>, usize, f64)> {
        let codecs = || self.codecs.iter().flatten();
        let mut names: Vec<&'static str> = codecs().map(Placed::name).collect();
        names.sort_unstable();
        names.dedup();
        let bytes = codecs().map(|codec| codec.shape().bytes_per_token()).sum();
        (!names.is_empty()).then(|| (names, codecs().count(), bytes))
    }

    /// Bytes of codecs' parameters.
    pub fn codec_bytes(&self) -> u64 {
        self.codec_bytes
    }

    /// Pages that no sequence holds.
    pub fn free_pages(&self) -> u32 {
        self.pool.pages.free_pages()
    }

    /// Forgets a sequence's tokens from `length` on and gives back the pages and blocks that held only those. Returns how many tokens are left:
    /// fewer than `length` where that lies within a block, which is forgotten as a whole.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn truncate(&mut self, id: SequenceId, length: u32) -> Result<u32, Error> {
        let sinks = self.sinks();
        let generation = self.generation();
        let sequence = self.sequences.get_mut(&id).ok_or(Error::NoSequence(id))?;
        sequence.generation = generation;
        let within = length.saturating_sub(sinks);
        let length = if within < sequence.compressed() {
            let blocks = sequence.blocks.split_off((within / BLOCK) as usize);
            self.pool.blocks.give_back(blocks);
            // The tail came after the blocks; sinks stay.
            let pages = sinks.div_ceil(PAGE) as usize;
            let tail = sequence.tail.split_off(pages.min(sequence.tail.len()));
            self.pool.tail.give_back(tail);
            length.min(sinks) + sequence.compressed()
        } else {
            length
        };
        sequence.tokens.truncate(length as usize);
        let keep = sequence.len().div_ceil(PAGE) as usize;
        let rest = sequence.pages.split_off(keep.min(sequence.pages.len()));
        self.pool.pages.give_back(rest);
        if self.layered.is_some() {
            let keep = sequence.tail_pages(sequence.len(), sinks) as usize;
            let rest = sequence.tail.split_off(keep.min(sequence.tail.len()));
            self.pool.tail.give_back(rest);
        }
        Ok(sequence.len())
    }

    /// Takes tokens of some sequences through the model; returns what is wanted after each.
    ///
    /// A feed of one token of a sequence that has begun is a decode step: there, a policy may choose what its layers read. Everything else is
    /// attended to densely. A step that fails leaves decoding sequences as long as they were, unless it is their compression that fails; prompts of
    /// policies that compress, which run one after another, stay as far as they came.
    ///
    /// # Errors
    /// When there are no rows or too many, a token or sequence does not exist, a context or the cache is full, or the device fails.
    pub fn step(&mut self, feeds: &[Feed<'_>]) -> Result<Outcome, Error> {
        self.check(feeds)?;
        let chooses = feeds
            .iter()
            .map(|feed| Ok(feed.tokens.len() == 1 && !self.sequence(feed.sequence)?.is_empty()))
            .collect::<Result<Vec<bool>, Error>>()?;
        let outcome = self.advance(feeds, &chooses, true)?;
        let ended = self.newest.map_or(Ok(()), |run| self.backend.wait(run));
        ended?;
        Ok(outcome)
    }

    /// Writes a step's tables without running it, and returns the recording that would run: for tracing and profiling. Where a policy
    /// would run decode steps apart, they must not be mixed with others.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn stage(&mut self, feeds: &[Feed<'_>]) -> Result<Recording, Error> {
        self.check(feeds)?;
        let single = feeds.iter().all(|feed| feed.tokens.len() == 1);
        if self.layered.is_some() && !single {
            let why = "a prompt is many recordings where layers compress: stage a decode step";
            return Err(Error::Parameter(why.into()));
        }
        let groups = self.groups(feeds, &vec![single; feeds.len()]);
        let [(_, selects)] = groups.as_slice() else {
            let why = "a staged step is one recording: stage decode steps and others apart";
            return Err(Error::Parameter(why.into()));
        };
        let bucket = self.fill(feeds, *selects)?;
        self.record(bucket)
    }

    /// Takes a prompt in; returns the logits after its last token. `progress` is told how many tokens are done, or about to be: a device may lag
    /// behind by what a backend lets wait.
    ///
    /// Goes chunk by chunk, or, where layers compress, layer by layer: then only one layer's raw rows are held at a time.
    ///
    /// # Errors
    /// As [`Engine::step`], and for an empty prompt. What earlier chunks took in stays, unless the device fails, which may show in a later chunk: then the
    /// sequence is of no more use.
    pub fn prefill(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, Error> {
        let outcome = self.prefill_for(id, tokens, Wants::Logits, progress)?;
        outcome.logits.into_iter().next().ok_or(Error::EmptyPrompt)
    }

    /// As [`Engine::prefill`], but returns what is wanted after the last token.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn prefill_for(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        wants: Wants<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Outcome, Error> {
        self.check_tokens(self.sequence(id)?.len(), tokens)?;
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if self.layered.is_some() {
            let given = self.prefill_layers(id, tokens, wants, progress, None)?;
            return Ok(Outcome::of([given]));
        }
        let mut outcome = Outcome::default();
        let mut done = 0;
        for chunk in tokens.chunks(self.options.chunk as usize) {
            done += chunk.len();
            let feed = Feed {
                sequence: id,
                tokens: chunk,
                wants: match done == tokens.len() {
                    true => wants,
                    false => Wants::Nothing,
                },
            };
            self.check(&[feed])?;
            outcome = self.advance(&[feed], &[false], false)?;
            progress(done);
        }
        Ok(outcome)
    }

    /// As [`Engine::prefill`] of a policy that compresses; `probe` sees what each layer makes of each chunk.
    pub(crate) fn prefill_probed(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize),
        probe: Probing<'_>,
    ) -> Result<Vec<f32>, Error> {
        self.check_tokens(self.sequence(id)?.len(), tokens)?;
        match self.prefill_layers(id, tokens, Wants::Logits, progress, Some(probe))? {
            Given::Logits(logits) => Ok(logits),
            Given::Nothing | Given::Token(_) => Err(Error::EmptyPrompt),
        }
    }
}

/// Whether attention on a backend reads a model's heads of rotated codes as they are stored.
fn reads_stored(backend: &dyn Backend, model: &Model) -> bool {
    let head_dim = model.config().shape.head_dim;
    backend.caps().reads_stored(head_dim, model.has_key_norms())
}

/// Rows that a decode step restores for a sequence at most, where all layers share them. `stored` says of a codec whether attention reads its blocks as
/// they are, where no choice is made of them.
fn restored_rows(
    policy: &dyn Policy,
    codecs: &[Option<Placed>],
    context: u32,
    stored: impl Fn(&Placed) -> bool,
) -> u32 {
    let reads_all = |(layer, codec): (u32, &Option<Placed>)| match (policy.role(layer), codec) {
        (_, None) | (Role::Follow, _) => false,
        (Role::Dense, Some(codec)) => !stored(codec),
        (Role::Observe, Some(_)) => true,
    };
    match policy.budget() {
        _ if (0..).zip(codecs).any(reads_all) => context,
        Some(budget) => budget.restored_rows(context),
        None => 0,
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model.path())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
