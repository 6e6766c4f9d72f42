//! A prompt on its way through the layers of a policy that compresses.

use longwave_contract::kv::BLOCK;
use longwave_contract::{BufferId, Recording, Tensor};

use super::buffers::BATCH;
use super::layers::{Probe, Probing, Staging};
use super::plans::{Bucket, Key};
use super::{Engine, Given, Outcome, Wants};
use crate::error::Error;
use crate::kv::{Sequence, SequenceId};
use crate::model::LayerCache;
use crate::policy::Retention;

/// How far a prompt is.
#[derive(Debug)]
pub enum Progress {
    /// There is more to do.
    Begun(Intake),
    /// It is taken in.
    Ended(Outcome),
}

/// A prompt on its way through the layers of a policy that compresses, in units of a layer and a chunk. Between two units the engine may run steps of
/// other sequences, and between two layers whole prompts of one chunk. It holds pages, which [`Engine::drop_intake`] gives back.
#[derive(Debug)]
pub struct Intake {
    id: SequenceId,
    before: Sequence,
    after: Sequence,
    /// Rows of a chunk.
    chunk: u32,
    /// The layer and the chunk that come next; before the first, embeddings.
    layer: u32,
    part: usize,
    embedded: bool,
}

impl Intake {
    /// The sequence.
    pub fn sequence(&self) -> SequenceId {
        self.id
    }

    /// Tokens that are taken in.
    pub fn tokens(&self) -> usize {
        self.after.tokens.len() - self.before.tokens.len()
    }

    /// Whether no layer is half-way.
    pub fn is_between_layers(&self) -> bool {
        self.part == 0
    }

    fn chunks(&self) -> std::slice::Chunks<'_, u32> {
        self.after.tokens[self.before.tokens.len()..].chunks(self.chunk as usize)
    }

    /// Whether the prompt is one chunk, which stays where ops work and takes all layers in one unit.
    fn is_single(&self) -> bool {
        self.tokens() <= self.chunk as usize
    }

    /// Blocks that the prompt fills.
    fn blocks(&self) -> u32 {
        (self.after.blocks.len() - self.before.blocks.len()) as u32
    }

    /// Whether one set of tables serves the embeddings, all layers and their blocks.
    fn shares_tables(&self) -> bool {
        self.is_single() && self.before.is_empty() && self.blocks() <= BATCH
    }
}

impl Engine {
    /// Takes a prompt in, layer by layer; returns what is wanted after its last token. A prompt that fails leaves its sequence as it was.
    pub(super) fn prefill_layers(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        wants: Wants<'_>,
        progress: &mut dyn FnMut(usize),
        mut probe: Option<Probing<'_>>,
    ) -> Result<Given, Error> {
        let mut intake = self.begin_intake(id, tokens)?;
        let layers = self.model.config().layers as usize;
        loop {
            let layer = intake.layer;
            match self.unit(&mut intake, wants, &mut probe) {
                Ok(None) => {}
                Ok(Some(given)) => {
                    progress(tokens.len());
                    self.end_intake(intake);
                    return Ok(given);
                }
                Err(error) => {
                    self.drop_intake(intake);
                    return Err(error);
                }
            }
            if intake.layer > layer {
                progress(tokens.len() * intake.layer as usize / layers);
            }
        }
    }

    /// Begins to take a prompt in: takes the pages and blocks that it needs.
    ///
    /// # Errors
    /// The policy does not compress, there is no such sequence or no prompt, the context or the cache is full, or the device fails.
    pub fn begin_intake(&mut self, id: SequenceId, tokens: &[u32]) -> Result<Intake, Error> {
        if self.layered.is_none() {
            return Err(Error::Parameter("the policy does not compress".into()));
        }
        self.check_tokens(self.sequence(id)?.len(), tokens)?;
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.make_room(&[(id, tokens.len() as u32)])?;
        self.own_pages(id)?;
        let before = self.found(id)?.clone();
        let mut after = before.clone();
        after.tokens.extend_from_slice(tokens);
        after.generation = self.generation();
        let sinks = self.sinks();
        let blocks = match self.policy.retention(after.len(), before.compressed()) {
            Retention::KeepAll => 0,
            Retention::Compress(range) => range.len() as u32 / BLOCK,
        };
        after.tail = Vec::new();
        let mut intake = Intake {
            id,
            before,
            after,
            chunk: (tokens.len() as u32).min(self.options.chunk),
            layer: 0,
            part: 0,
            embedded: false,
        };
        let taken = self.fill_intake(&mut intake, blocks, sinks);
        match taken {
            Ok(()) => Ok(intake),
            Err(error) => {
                self.drop_intake(intake);
                Err(error)
            }
        }
    }

    fn fill_intake(&mut self, intake: &mut Intake, blocks: u32, sinks: u32) -> Result<(), Error> {
        let after = &mut intake.after;
        after.blocks.extend(self.pool.blocks.take(blocks)?);
        let missing = intake.before.missing_pages(after.len());
        after.pages.extend(self.pool.pages.take(missing)?);
        after.tail = self.pool.tail.take(after.tail_pages(after.len(), sinks))?;
        Ok(())
    }

    /// Runs the next unit of a prompt; returns what is wanted after its last token once that is there, and the prompt is taken in.
    ///
    /// # Errors
    /// The device fails. The prompt is then dropped, and its sequence as it was before.
    pub fn advance_intake(
        &mut self,
        mut intake: Intake,
        wants: Wants<'_>,
    ) -> Result<Progress, Error> {
        match self.unit(&mut intake, wants, &mut None) {
            Ok(None) => Ok(Progress::Begun(intake)),
            Ok(Some(given)) => {
                self.end_intake(intake);
                Ok(Progress::Ended(Outcome::of([given])))
            }
            Err(error) => {
                self.drop_intake(intake);
                Err(error)
            }
        }
    }

    /// Gives up a prompt that is half-way, and gives back what it took; its sequence is as it was before.
    pub fn drop_intake(&mut self, intake: Intake) {
        let (before, mut after) = (intake.before, intake.after);
        self.pool.tail.give_back(after.tail);
        let blocks = after.blocks.split_off(before.blocks.len());
        self.pool.blocks.give_back(blocks);
        let pages = after.pages.split_off(before.pages.len());
        self.pool.pages.give_back(pages);
    }

    fn end_intake(&mut self, intake: Intake) {
        self.pool.tail.give_back(intake.before.tail);
        self.sequences.insert(intake.id, intake.after);
    }

    /// Runs one layer over one chunk, with what comes before and after it; all layers where the prompt is one chunk.
    fn unit(
        &mut self,
        intake: &mut Intake,
        wants: Wants<'_>,
        probe: &mut Option<Probing<'_>>,
    ) -> Result<Option<Given>, Error> {
        if !intake.embedded {
            self.embed_chunks(intake, wants)?;
            intake.embedded = true;
        }
        let layers = self.model.config().layers;
        loop {
            self.layer_unit(intake, wants, probe)?;
            if intake.layer == layers {
                break;
            }
            if !intake.is_single() {
                return Ok(None);
            }
        }
        let given = self.read_given([wants].into_iter())?.pop();
        if let (Wants::Nothing, Some(run)) = (wants, self.newest) {
            // Nothing was read: only now is it known that nothing failed.
            self.backend.wait(run)?;
        }
        given.map(Some).ok_or(Error::EmptyPrompt)
    }

    /// Where a prompt's residual stream lies between units, and where ops work on it.
    fn hidden_place(&self, intake: &Intake, part: usize) -> Result<(BufferId, u64), Error> {
        let layered = self.layered.as_ref();
        let layered =
            layered.ok_or_else(|| Error::Parameter("the policy does not compress".into()))?;
        let hidden = layered.hidden();
        let at = part as u64 * u64::from(intake.chunk) * hidden.row_bytes();
        Ok((hidden.buffer, at))
    }

    fn staging(&self, before: &Sequence) -> Staging {
        Staging {
            sinks: self.sinks(),
            compressed: before.compressed(),
        }
    }

    fn embed_chunks(&mut self, intake: &Intake, wants: Wants<'_>) -> Result<(), Error> {
        let bucket = Bucket::of_prompt(intake.chunk, intake.after.len(), &self.options);
        let step = self.step_tensors(bucket);
        let staging = self.staging(&intake.before);
        let start = intake.before.len();
        for (index, part) in intake.chunks().enumerate() {
            let first = start + index as u32 * intake.chunk;
            self.fill_chunk((intake.id, wants), &intake.after, first, part, staging);
            if intake.shares_tables() {
                self.add_batch(&intake.after, 0, 0..intake.blocks());
            }
            self.tables.upload(&*self.backend)?;
            self.run_key(Key::Embed(bucket), |engine| {
                let mut recording = Recording::new("embeddings of a chunk");
                engine.model.record_embedding(&mut recording, &step)?;
                Ok(recording)
            })?;
            if !intake.is_single() {
                let bytes = part.len() as u64 * step.x.row_bytes();
                let x = (step.x.buffer, step.x.offset);
                self.backend
                    .copy(x, self.hidden_place(intake, index)?, bytes)?;
            }
        }
        Ok(())
    }

    fn layer_unit(
        &mut self,
        intake: &mut Intake,
        wants: Wants<'_>,
        probe: &mut Option<Probing<'_>>,
    ) -> Result<(), Error> {
        let (layer, index, layers) = (intake.layer, intake.part, self.model.config().layers);
        let (before, after) = (&intake.before, &intake.after);
        let coded = matches!(self.layer_cache(layer as usize), LayerCache::Coded { .. });
        let start = before.len();
        if coded && index == 0 {
            self.stage_tail(layer, before)?;
            if start > 0 {
                self.restore_history(layer, before)?;
            }
        }
        let single = intake.is_single();
        let count = intake.chunks().len();
        let Some(part) = intake.chunks().nth(index) else {
            return Err(Error::EmptyPrompt);
        };
        let staging = self.staging(before);
        let first = start + index as u32 * intake.chunk;
        // Early chunks see less than the last.
        let seen = first + part.len() as u32;
        let bucket = Bucket::of_prompt(intake.chunk, seen, &self.options);
        let step = self.step_tensors(bucket);
        let x = (step.x.buffer, step.x.offset);
        let bytes = part.len() as u64 * step.x.row_bytes();
        let place = self.hidden_place(intake, index)?;
        if !single {
            self.backend.copy(place, x, bytes)?;
        }
        let last = index + 1 == count;
        let shares = intake.shares_tables();
        if !shares {
            self.fill_chunk((intake.id, wants), after, first, part, staging);
            self.tables.upload(&*self.backend)?;
        }
        // A plan more for each layer would leave the device idle in between.
        let joined = coded && shares && probe.is_none() && intake.blocks() > 0;
        let blocks = if joined {
            intake.blocks().next_power_of_two()
        } else {
            0
        };
        self.run_key(Key::Layer(layer, bucket, blocks), |engine| {
            let mut recording = engine.record_layer(layer, &step)?;
            if blocks > 0 {
                engine.record_blocks(&mut recording, layer, blocks)?;
            }
            Ok(recording)
        })?;
        if !single {
            self.backend.copy(x, place, bytes)?;
        }
        if last && layer + 1 == layers {
            // While its rows and tables are there.
            let bucket = Bucket {
                samples: self.tables.samples(),
                ..bucket
            };
            let step = self.step_tensors(bucket);
            self.run_key(Key::Logits(bucket), |engine| {
                let mut recording = Recording::new("logits after a prompt");
                engine.model.record_logits(&mut recording, &step)?;
                Ok(recording)
            })?;
        }
        if let (Some(probe), Some(layered)) = (probe, &self.layered) {
            let rows = part.len() as u32;
            let staged = layered.staged();
            let row = u64::from(staging.row(first)) * staged.row_bytes();
            let at = Probe {
                layer,
                start: first,
                rows,
                q: Tensor { rows, ..step.q },
                staged: Tensor {
                    rows,
                    ..staged.at(row)
                },
                scratch: layered.prompt(),
            };
            probe(self, at)?;
        }
        if !last {
            intake.part += 1;
            return Ok(());
        }
        if coded {
            if blocks == 0 {
                self.encode(
                    layer,
                    after,
                    before.blocks.len() as u32,
                    intake.blocks(),
                    shares,
                )?;
            }
            self.keep_tail(layer, before, after)?;
        }
        intake.part = 0;
        intake.layer += 1;
        Ok(())
    }
}
