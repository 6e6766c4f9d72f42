//! The engine: sequences of one model on one backend.
//!
//! A step takes some rows of some sequences through the model: chunks of prompts and single decoded tokens alike. What it does is
//! recorded once per bucket of rows and context, and replayed; tokens, positions, slots and views go to the device as tables.

mod plans;
mod tables;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use longwave_contract::kv::PAGE;
use longwave_contract::{Allocation, Backend, BufferDesc, DType, Recording, Tensor};

use crate::error::Error;
use crate::kv::{KvPool, Sequence, SequenceId};
use crate::model::{ChoiceTensors, Model, ModelConfig, StepTensors};
use crate::policy::{Budget, Policy, Retention};
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
    /// Engines of this kind that will share the model: loading leaves room for all of them.
    pub engines: u32,
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
        // As much as any policy's choice may take.
        let most = Budget {
            keep: u32::MAX,
            ..Budget::default()
        };
        let choice = Choice::descs(self, most);
        let buffers = activations.iter().chain(&choice);
        buffers.map(|desc| desc.bytes).sum::<u64>() + tables::Layout::new(self).bytes
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

/// The buffers in which a policy's layers choose what others read.
struct Choice {
    scores: Allocation,
    entries: Allocation,
    /// Tokens that are chosen for a sequence at most.
    tokens: u32,
}

impl Choice {
    /// Scores of every token, and as many entries as the budget has, for each sequence.
    fn descs(options: &EngineOptions, budget: Budget) -> [BufferDesc; 2] {
        let tokens = budget.tokens().min(options.context);
        [
            BufferDesc::of("scores", DType::F32, options.sequences, options.context),
            BufferDesc::of("chosen entries", DType::U32, options.sequences, tokens),
        ]
    }

    fn new(
        backend: &Arc<dyn Backend>,
        options: &EngineOptions,
        budget: Budget,
    ) -> Result<Self, Error> {
        let [scores, entries] = Choice::descs(options, budget);
        Ok(Choice {
            scores: Allocation::new(backend, &scores)?,
            entries: Allocation::new(backend, &entries)?,
            tokens: budget.tokens().min(options.context),
        })
    }

    /// From one sequence's entries to the next's.
    fn pitch(&self) -> u32 {
        self.tokens.next_multiple_of(4)
    }

    fn tensors(&self, bucket: Bucket, layout: &tables::Layout) -> ChoiceTensors {
        let picks = layout.picks(bucket.rows);
        ChoiceTensors {
            picks,
            scores: Tensor::new(self.scores.id(), DType::F32, picks.rows, bucket.longest),
            entries: Tensor::new(self.entries.id(), DType::U32, picks.rows, self.tokens),
            views: layout.chosen_views(),
            longest: bucket.chosen,
        }
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
    tables: Tables,
    plans: Plans,
    sequences: HashMap<SequenceId, Sequence>,
    next_sequence: u32,
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
        let pool = KvPool::new(&backend, config.layers, config.shape, options.cache_tokens)?;
        let buffers = Activations::descs(&options, config)
            .iter()
            .map(|desc| Allocation::new(&backend, desc))
            .collect::<Result<_, _>>()?;
        let choice = policy
            .budget()
            .map(|budget| Choice::new(&backend, &options, budget))
            .transpose()?;
        let tables = Tables::new(&backend, &options)?;
        Ok(Engine {
            plans: Plans::new(Arc::clone(&backend)),
            activations: Activations { buffers },
            choice,
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

    /// Bytes in which the tokens of a range of positions are stored, all layers together.
    ///
    /// # Errors
    /// When there is no such sequence, or it ends before the range does.
    pub fn stored_bytes(&self, id: SequenceId, positions: Range<u32>) -> Result<u64, Error> {
        let length = self.sequence(id)?.len();
        if positions.end > length {
            return Err(Error::Parameter(format!(
                "positions {positions:?} of a sequence of {length} tokens"
            )));
        }
        let tokens = u64::from(positions.end.saturating_sub(positions.start));
        Ok(tokens * self.pool.page_bytes() / u64::from(PAGE))
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
    /// A feed of one token of a sequence that has begun is a decode step: there, a policy may choose what its layers read. Everything else is
    /// attended to densely. A step that fails leaves the sequences as long as they were.
    ///
    /// # Errors
    /// When there are no rows or too many, a token or sequence does not exist, a context or the cache is full, or the device fails.
    pub fn step(&mut self, feeds: &[Feed<'_>]) -> Result<Vec<Vec<f32>>, Error> {
        self.check(feeds)?;
        let chooses = feeds
            .iter()
            .map(|feed| Ok(feed.tokens.len() == 1 && !self.sequence(feed.sequence)?.is_empty()))
            .collect::<Result<Vec<bool>, Error>>()?;
        self.advance(feeds, &chooses)
    }

    /// Takes in what [`Engine::check`] has passed; `chooses` says for each feed whether it is a decode step.
    fn advance(&mut self, feeds: &[Feed<'_>], chooses: &[bool]) -> Result<Vec<Vec<f32>>, Error> {
        let mut logits: Vec<Option<Vec<f32>>> = vec![None; feeds.len()];
        for (group, budget) in self.groups(feeds, chooses) {
            let some: Vec<Feed<'_>> = group.iter().map(|&index| feeds[index]).collect();
            let bucket = self.fill(&some, budget)?;
            if !self.plans.contains(bucket) {
                let recording = self.record(bucket)?;
                self.plans.insert(bucket, &recording)?;
            }
            let ticket = self.plans.run(bucket)?;
            self.backend.wait(ticket)?;
            let wanted: Vec<usize> = group
                .into_iter()
                .filter(|&index| feeds[index].logits)
                .collect();
            for (index, row) in wanted.iter().zip(self.read_logits(wanted.len())?) {
                logits[*index] = Some(row);
            }
        }
        for feed in feeds {
            if let Some(sequence) = self.sequences.get_mut(&feed.sequence) {
                sequence.tokens.extend_from_slice(feed.tokens);
                match self.policy.retention(sequence.len()) {
                    Retention::KeepAll => {}
                }
            }
        }
        Ok(logits.into_iter().flatten().collect())
    }

    /// The feeds that share a recording: those for which something is left out, with the budget, and all others.
    fn groups(&self, feeds: &[Feed<'_>], chooses: &[bool]) -> Vec<(Vec<usize>, Option<Budget>)> {
        let drops = |budget: Budget, index: usize| {
            let sequence = self.sequences.get(&feeds[index].sequence);
            let pick = budget.pick(0, sequence.map_or(0, Sequence::len) + 1);
            chooses[index] && pick.candidates > pick.keep
        };
        let (some, all): (Vec<usize>, Vec<usize>) = match self.policy.budget() {
            None => (Vec::new(), (0..feeds.len()).collect()),
            Some(budget) => (0..feeds.len()).partition(|&index| drops(budget, index)),
        };
        [(all, None), (some, self.policy.budget())]
            .into_iter()
            .filter(|(group, _)| !group.is_empty())
            .collect()
    }

    /// Writes a step's tables without running it, and returns the recording that would run: for tracing and profiling. Where a policy
    /// would run decode steps apart, they must not be mixed with others.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn stage(&mut self, feeds: &[Feed<'_>]) -> Result<Recording, Error> {
        self.check(feeds)?;
        let single = feeds.iter().all(|feed| feed.tokens.len() == 1);
        let groups = self.groups(feeds, &vec![single; feeds.len()]);
        let [(_, budget)] = groups.as_slice() else {
            let why = "a staged step is one recording: stage decode steps and others apart";
            return Err(Error::Parameter(why.into()));
        };
        let bucket = self.fill(feeds, *budget)?;
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
            self.check(&[feed])?;
            logits = self.advance(&[feed], &[false])?;
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

    /// Whether a step of these feeds is possible.
    fn check(&self, feeds: &[Feed<'_>]) -> Result<(), Error> {
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
        let pages = &self.pool.pages;
        if needed > pages.free_pages() {
            return Err(Error::CacheFull {
                needed,
                free: pages.free_pages(),
                pages: pages.pages(),
            });
        }
        Ok(())
    }

    /// Takes the pages that feeds need and writes the tables of their recording; with a budget, all of them choose what they read.
    fn fill(&mut self, feeds: &[Feed<'_>], budget: Option<Budget>) -> Result<Bucket, Error> {
        for feed in feeds {
            if let Some(sequence) = self.sequences.get_mut(&feed.sequence) {
                let missing = sequence.missing_pages(sequence.len() + feed.tokens.len() as u32);
                let taken = self.pool.pages.take(missing);
                sequence.pages.extend(taken.into_iter().flatten());
            }
        }
        let pitch = self.choice.as_ref().map_or(0, Choice::pitch);
        self.tables.begin();
        for feed in feeds {
            let sequence = self
                .sequences
                .get(&feed.sequence)
                .ok_or(Error::NoSequence(feed.sequence))?;
            match budget {
                None => self.tables.add(feed, sequence, &*self.policy),
                Some(budget) => {
                    let policy = &*self.policy;
                    self.tables
                        .add_picked(feed, sequence, policy, budget, pitch);
                }
            }
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
            choice: self
                .choice
                .as_ref()
                .filter(|_| bucket.chosen > 0)
                .map(|choice| choice.tensors(bucket, layout)),
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
