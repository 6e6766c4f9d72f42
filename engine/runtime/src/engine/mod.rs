//! The engine: sequences of one model on one backend.
//!
//! A step takes some rows of some sequences through the model: chunks of prompts and single decoded tokens alike. What it does is
//! recorded once per bucket of rows and context, and replayed; tokens, positions, slots and views go to the device as tables.

mod plans;
mod tables;

use std::collections::HashMap;
use std::sync::Arc;

use longwave_contract::kv::PAGE;
use longwave_contract::{Allocation, Backend, BufferDesc, DType, Recording, Tensor};

use crate::error::Error;
use crate::kv::{KvPool, Sequence, SequenceId};
use crate::model::{Model, ModelConfig, StepTensors};
use crate::policy::{Policy, Retention};
use plans::{Bucket, Plans};
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
}

impl EngineOptions {
    /// One sequence of up to `context` tokens, prompts in chunks of 512.
    pub fn single(context: u32) -> Self {
        EngineOptions {
            context,
            cache_tokens: context,
            chunk: 512,
            sequences: 1,
        }
    }

    /// Bytes that the engine will allocate for the cache.
    pub fn cache_bytes(&self, config: &ModelConfig) -> u64 {
        u64::from(self.cache_tokens.div_ceil(PAGE).max(1))
            * u64::from(PAGE)
            * config.dense_bytes_per_token()
    }

    /// Bytes that the engine will allocate for activations, logits and tables.
    pub fn work_bytes(&self, config: &ModelConfig) -> u64 {
        let activations = Activations::descs(self, config);
        activations.iter().map(|desc| desc.bytes).sum::<u64>() + tables::Layout::new(self).bytes
    }
}

/// Tokens of one sequence that a step takes in.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its next tokens.
    pub tokens: &'a [u32],
    /// Whether the logits after the last of them are wanted.
    pub logits: bool,
}

/// The buffers that ops work in, each with room for a full step.
struct Activations {
    buffers: Vec<Allocation>,
}

impl Activations {
    fn descs(options: &EngineOptions, config: &ModelConfig) -> [BufferDesc; 5] {
        let desc = |label: &str, rows, cols| BufferDesc::of(label, DType::F32, rows, cols);
        [
            desc("residual stream", options.chunk, config.width),
            desc("queries", options.chunk, config.q_width()),
            desc("attended", options.chunk, config.q_width()),
            desc("feed-forward", options.chunk, config.inner),
            desc("logits", options.sequences, config.vocabulary),
        ]
    }

    fn tensor(&self, index: usize, rows: u32, cols: u32) -> Tensor {
        Tensor::new(self.buffers[index].id(), DType::F32, rows, cols)
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
    tables: Tables,
    plans: Plans,
    sequences: HashMap<SequenceId, Sequence>,
    next_sequence: u32,
}

impl Engine {
    /// Allocates cache and working memory for a model that lies on `backend`.
    ///
    /// # Errors
    /// When the options exceed the model's context, or the device has no room.
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
        if options.chunk == 0 || options.sequences == 0 {
            return Err(Error::Parameter(
                "an engine needs room for one row of one sequence at least".into(),
            ));
        }
        let pool = KvPool::new(&backend, config.layers, config.shape, options.cache_tokens)?;
        let buffers = Activations::descs(&options, config)
            .iter()
            .map(|desc| Allocation::new(&backend, desc))
            .collect::<Result<_, _>>()?;
        let tables = Tables::new(&backend, &options)?;
        Ok(Engine {
            plans: Plans::new(Arc::clone(&backend)),
            activations: Activations { buffers },
            backend,
            model,
            policy,
            options,
            pool,
            tables,
            sequences: HashMap::new(),
            next_sequence: 0,
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

    /// Starts an empty sequence.
    pub fn start(&mut self) -> SequenceId {
        let id = SequenceId(self.next_sequence);
        self.next_sequence += 1;
        self.sequences.insert(id, Sequence::default());
        id
    }

    /// Ends a sequence and gives its pages back.
    pub fn end(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.remove(&id) {
            self.pool.pages.give_back(sequence.pages);
        }
    }

    /// What a sequence holds.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn sequence(&self, id: SequenceId) -> Result<&Sequence, Error> {
        self.sequences.get(&id).ok_or(Error::NoSequence(id))
    }

    /// Bytes of cache that a sequence holds: whole pages, all layers.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn kv_bytes(&self, id: SequenceId) -> Result<u64, Error> {
        Ok(self.sequence(id)?.pages.len() as u64 * self.pool.page_bytes())
    }

    /// Pages that no sequence holds.
    pub fn free_pages(&self) -> u32 {
        self.pool.pages.free_pages()
    }

    /// Forgets a sequence's tokens from `length` on and gives back the pages that held only those.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn truncate(&mut self, id: SequenceId, length: u32) -> Result<(), Error> {
        let sequence = self.sequences.get_mut(&id).ok_or(Error::NoSequence(id))?;
        sequence.tokens.truncate(length as usize);
        let keep = sequence.len().div_ceil(PAGE) as usize;
        let rest = sequence.pages.split_off(keep.min(sequence.pages.len()));
        self.pool.pages.give_back(rest);
        Ok(())
    }

    /// Takes tokens of some sequences through the model; returns the logits that were asked for, in the order of `feeds`.
    ///
    /// A step that fails leaves the sequences as long as they were.
    ///
    /// # Errors
    /// When there are no rows or too many, a token or sequence does not exist, a context or the cache is full, or the device fails.
    pub fn step(&mut self, feeds: &[Feed<'_>]) -> Result<Vec<Vec<f32>>, Error> {
        let bucket = self.fill(feeds)?;
        if !self.plans.contains(bucket) {
            let recording = self.record(bucket)?;
            self.plans.insert(bucket, &recording)?;
        }
        let ticket = self.plans.run(bucket)?;
        self.backend.wait(ticket)?;
        let wanted = feeds.iter().filter(|feed| feed.logits).count();
        let logits = self.read_logits(wanted)?;
        for feed in feeds {
            if let Some(sequence) = self.sequences.get_mut(&feed.sequence) {
                sequence.tokens.extend_from_slice(feed.tokens);
                match self.policy.retention(sequence.len()) {
                    Retention::KeepAll => {}
                }
            }
        }
        Ok(logits)
    }

    /// Writes a step's tables without running it, and returns the recording that would run: for tracing and profiling.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn stage(&mut self, feeds: &[Feed<'_>]) -> Result<Recording, Error> {
        let bucket = self.fill(feeds)?;
        self.record(bucket)
    }

    /// Takes a prompt in, chunk by chunk; returns the logits after its last token. `progress` is told how many tokens are done.
    ///
    /// # Errors
    /// As [`Engine::step`], and for an empty prompt. What earlier chunks took in stays.
    pub fn prefill(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, Error> {
        self.check_tokens(self.sequence(id)?.len(), tokens)?;
        let mut logits = Vec::new();
        let mut done = 0;
        for chunk in tokens.chunks(self.options.chunk as usize) {
            done += chunk.len();
            let feed = Feed {
                sequence: id,
                tokens: chunk,
                logits: done == tokens.len(),
            };
            logits = self.step(&[feed])?;
            progress(done);
        }
        logits.pop().ok_or(Error::EmptyPrompt)
    }

    fn check_tokens(&self, have: u32, tokens: &[u32]) -> Result<(), Error> {
        let vocabulary = self.model.config().vocabulary;
        if let Some(position) = tokens.iter().position(|&token| token >= vocabulary) {
            return Err(Error::TokenBeyondVocabulary {
                token: tokens[position],
                position,
                vocabulary,
            });
        }
        let total = u64::from(have) + tokens.len() as u64;
        if total > u64::from(self.options.context) {
            return Err(Error::ContextExceeded {
                tokens: total,
                context: self.options.context,
            });
        }
        Ok(())
    }

    /// Takes the pages that a step needs and writes its tables.
    fn fill(&mut self, feeds: &[Feed<'_>]) -> Result<Bucket, Error> {
        let rows: usize = feeds.iter().map(|feed| feed.tokens.len()).sum();
        let limit = self.options.chunk as usize;
        let distinct = feeds
            .iter()
            .enumerate()
            .all(|(i, f)| feeds[..i].iter().all(|other| other.sequence != f.sequence));
        if rows == 0 || rows > limit || feeds.iter().any(|feed| feed.tokens.is_empty()) {
            return Err(Error::StepSize { rows, limit });
        }
        if !distinct || feeds.len() > self.options.sequences as usize {
            let sequences = self.options.sequences;
            return Err(Error::Parameter(format!(
                "a step takes up to {sequences} sequences, each once"
            )));
        }
        let mut needed = 0;
        for feed in feeds {
            let sequence = self.sequence(feed.sequence)?;
            self.check_tokens(sequence.len(), feed.tokens)?;
            needed += sequence.missing_pages(sequence.len() + feed.tokens.len() as u32);
        }
        let pages = &mut self.pool.pages;
        if needed > pages.free_pages() {
            return Err(Error::CacheFull {
                needed,
                free: pages.free_pages(),
                pages: pages.pages(),
            });
        }
        for feed in feeds {
            if let Some(sequence) = self.sequences.get_mut(&feed.sequence) {
                let missing = sequence.missing_pages(sequence.len() + feed.tokens.len() as u32);
                sequence
                    .pages
                    .extend(pages.take(missing).into_iter().flatten());
            }
        }
        self.tables.begin();
        for feed in feeds {
            let sequence = self
                .sequences
                .get(&feed.sequence)
                .ok_or(Error::NoSequence(feed.sequence))?;
            self.tables.add(feed, sequence, &*self.policy);
        }
        self.tables.upload(&*self.backend)?;
        Ok(Bucket::of(&self.tables, &self.options))
    }

    fn record(&self, bucket: Bucket) -> Result<Recording, Error> {
        let config = self.model.config();
        let layout = &self.tables.layout;
        let step = StepTensors {
            rows: layout.rows(bucket.rows),
            count: layout.count(),
            select: layout.select(bucket.logits.max(1)),
            selected: layout.selected(),
            views: layout.views(),
            entries: layout.entries(),
            x: self.activations.tensor(0, bucket.rows, config.width),
            q: self.activations.tensor(1, bucket.rows, config.q_width()),
            attended: self.activations.tensor(2, bucket.rows, config.q_width()),
            inner: self.activations.tensor(3, bucket.rows, config.inner),
            logits: (bucket.logits > 0)
                .then(|| self.activations.tensor(4, bucket.logits, config.vocabulary)),
            longest: bucket.longest,
        };
        let label = format!(
            "step of {} rows over {} tokens",
            bucket.rows, bucket.longest
        );
        Ok(self
            .model
            .record(label, &step, &*self.policy, |layer| self.pool.layer(layer))?)
    }

    fn read_logits(&self, wanted: usize) -> Result<Vec<Vec<f32>>, Error> {
        let tensor =
            self.activations
                .tensor(4, self.options.sequences, self.model.config().vocabulary);
        (0..wanted as u64)
            .map(|row| {
                let mut logits = vec![0.0f32; tensor.cols as usize];
                self.backend.read(
                    tensor.buffer,
                    row * tensor.row_bytes(),
                    bytemuck::cast_slice_mut(&mut logits),
                )?;
                Ok(logits)
            })
            .collect()
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
