//! Prompts of policies that compress: layer by layer over the whole prompt, so that one layer's raw rows are held at a time.

use longwave_contract::kv::{BLOCK, KeySpace, PAGE};
use longwave_contract::{Recording, Tensor};

use super::buffers::{BATCH, Layered};
use super::plans::{Bucket, Key};
use super::tables::Region;
use super::{Engine, Feed, Given, Wants};
use crate::codec::EncodeTensors;
use crate::error::Error;
use crate::kv::{Sequence, SequenceId};
use crate::model::{LayerCache, StepTensors};
use crate::policy::Retention;

/// What one layer has made of a chunk of a prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// The layer.
    pub layer: u32,
    /// The position of the chunk's first token.
    pub start: u32,
    /// Rows of the chunk.
    pub rows: u32,
    /// Roped queries, `f32[rows, heads * head_dim]`.
    pub q: Tensor,
    /// The chunk's rows before the rotary embedding, `f16[rows, cols]`.
    pub staged: Tensor,
    /// All rows up to the chunk's last one, as attention reads them, by position.
    pub scratch: Tensor,
}

/// Sees what each layer makes of each chunk.
pub(crate) type Probing<'a> = &'a mut dyn FnMut(&Engine, Probe) -> Result<(), Error>;

/// Where the staged rows of a sequence lie: its sinks, then, from a page's first row on, what is in no block.
#[derive(Clone, Copy, Debug)]
struct Staging {
    sinks: u32,
    compressed: u32,
}

impl Staging {
    /// The first row of the tail.
    fn tail(self) -> u32 {
        self.sinks.next_multiple_of(PAGE)
    }

    fn row(self, position: u32) -> u32 {
        match position.checked_sub(self.sinks) {
            None => position,
            Some(after) => self.tail() + after - self.compressed,
        }
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
        probe: Option<Probing<'_>>,
    ) -> Result<Given, Error> {
        let before = self.found(id)?.clone();
        let mut after = before.clone();
        after.tokens.extend_from_slice(tokens);
        after.generation = self.generation();
        let sinks = self.sinks();
        let blocks = match self.policy.retention(after.len(), before.compressed()) {
            Retention::KeepAll => 0,
            Retention::Compress(range) => range.len() as u32 / BLOCK,
        };
        after.blocks.extend(self.pool.blocks.take(blocks)?);
        let missing = before.missing_pages(after.len());
        let tail = after.tail_pages(after.len(), sinks);
        let taken = (self.pool.pages.take(missing), self.pool.tail.take(tail));
        let made = match taken {
            (Ok(pages), Ok(tail)) => {
                after.pages.extend(pages);
                after.tail = tail;
                self.run_layers((id, wants), &before, &after, progress, probe)
            }
            (Ok(pages), Err(error)) => {
                after.pages.extend(pages);
                after.tail = Vec::new();
                Err(error)
            }
            (Err(error), taken) => {
                after.tail = taken.unwrap_or_default();
                Err(error)
            }
        };
        match made {
            Ok(given) => {
                self.pool.tail.give_back(before.tail);
                self.sequences.insert(id, after);
                Ok(given)
            }
            Err(error) => {
                self.pool.tail.give_back(after.tail);
                let blocks = after.blocks.split_off(before.blocks.len());
                self.pool.blocks.give_back(blocks);
                let pages = after.pages.split_off(before.pages.len());
                self.pool.pages.give_back(pages);
                Err(error)
            }
        }
    }

    fn run_layers(
        &mut self,
        (id, wants): (SequenceId, Wants<'_>),
        before: &Sequence,
        after: &Sequence,
        progress: &mut dyn FnMut(usize),
        mut probe: Option<Probing<'_>>,
    ) -> Result<Given, Error> {
        let Some(layered) = &self.layered else {
            return Err(Error::Parameter("the policy does not compress".into()));
        };
        let (hidden, staged) = (layered.hidden(), layered.staged());
        let start = before.len();
        let tokens = &after.tokens[start as usize..];
        let sinks = self.sinks();
        let staging = Staging {
            sinks,
            compressed: before.compressed(),
        };
        let chunk = (tokens.len() as u32).min(self.options.chunk);
        let bucket = Bucket::of_prompt(chunk, after.len(), &self.options);
        let step = self.step_tensors(bucket);
        let chunks: Vec<&[u32]> = tokens.chunks(chunk as usize).collect();
        let place = |index: usize| {
            (
                hidden.buffer,
                index as u64 * u64::from(chunk) * hidden.row_bytes(),
            )
        };
        let bytes = |chunk: &[u32]| chunk.len() as u64 * hidden.row_bytes();
        // One chunk stays where ops work.
        let single = chunks.len() == 1;
        let x = (step.x.buffer, step.x.offset);
        for (index, part) in chunks.iter().enumerate() {
            let first = start + index as u32 * chunk;
            self.fill_chunk((id, wants), after, first, part, staging)?;
            self.run_key(Key::Embed(bucket), |engine| {
                let mut recording = Recording::new("embeddings of a chunk");
                engine.model.record_embedding(&mut recording, &step)?;
                Ok(recording)
            })?;
            if !single {
                self.backend.copy(x, place(index), bytes(part))?;
            }
        }
        let layers = self.model.config().layers;
        for layer in 0..layers {
            let coded = matches!(self.layer_cache(layer as usize), LayerCache::Coded { .. });
            if coded {
                self.stage_tail(layer, before)?;
                if start > 0 {
                    self.restore_history(layer, before)?;
                }
            }
            for (index, part) in chunks.iter().enumerate() {
                let first = start + index as u32 * chunk;
                // Early chunks see less than the last.
                let seen = first + part.len() as u32;
                let bucket = Bucket::of_prompt(chunk, seen, &self.options);
                let step = self.step_tensors(bucket);
                if !single {
                    self.backend.copy(place(index), x, bytes(part))?;
                }
                self.fill_chunk((id, wants), after, first, part, staging)?;
                self.run_key(Key::Layer(layer, bucket), |engine| {
                    engine.record_layer(layer, &step)
                })?;
                if !single {
                    self.backend.copy(x, place(index), bytes(part))?;
                }
                if layer + 1 == layers && index + 1 == chunks.len() {
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
                if let (Some(probe), Some(layered)) = (&mut probe, &self.layered) {
                    let rows = part.len() as u32;
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
                        scratch: layered.scratch(),
                    };
                    probe(self, at)?;
                }
            }
            if coded {
                let count = (after.blocks.len() - before.blocks.len()) as u32;
                self.encode(layer, after, before.blocks.len() as u32, count)?;
                self.keep_tail(layer, before, after)?;
            }
            progress(tokens.len() * (layer as usize + 1) / layers as usize);
        }
        let given = self.read_given([wants].into_iter())?.pop();
        if let (Wants::Nothing, Some(run)) = (wants, self.newest) {
            // Nothing was read: only now is it known that nothing failed.
            self.backend.wait(run)?;
        }
        given.ok_or(Error::EmptyPrompt)
    }

    /// Writes the tables of a chunk.
    fn fill_chunk(
        &mut self,
        (id, wants): (SequenceId, Wants<'_>),
        after: &Sequence,
        start: u32,
        tokens: &[u32],
        staging: Staging,
    ) -> Result<(), Error> {
        let feed = Feed {
            sequence: id,
            tokens,
            wants,
        };
        self.tables.begin();
        self.tables.add_from(start, &feed, after, &*self.policy);
        self.tables.add_chunk(|position| staging.row(position));
        self.tables.upload(&*self.backend)
    }

    /// Records one layer over a chunk.
    fn record_layer(&self, layer: u32, step: &StepTensors) -> Result<Recording, Error> {
        let (index, layout) = (layer as usize, &self.tables.layout);
        let mut recording = Recording::new(format!("layer {layer} of a chunk"));
        let model = &self.model;
        match (self.layer_cache(index), &self.layered) {
            (LayerCache::Coded { .. }, Some(layered)) => {
                let step = StepTensors {
                    rows: layout.first(Region::CodedRows, step.rows.rows),
                    views: layout.whole(Region::ScratchViews),
                    entries: layered.scratch_pages(),
                    ..*step
                };
                let (scratch, staged) = (layered.scratch(), Some(layered.staged()));
                model.record_queries(
                    &mut recording,
                    index,
                    &step,
                    KeySpace::Roped,
                    scratch,
                    staged,
                )?;
                recording.push(model.attend(&step, scratch))?;
            }
            (LayerCache::Raw(kv) | LayerCache::Coded { raw: kv, .. }, _) => {
                model.record_queries(&mut recording, index, step, KeySpace::Roped, kv, None)?;
                recording.push(model.attend(step, kv))?;
            }
        }
        model.record_feed_forward(&mut recording, index, step)?;
        Ok(recording)
    }

    /// Restores all of a sequence's tokens of one layer to the scratch rows of their positions.
    fn restore_history(&mut self, layer: u32, sequence: &Sequence) -> Result<(), Error> {
        let longest = Bucket::tokens(sequence.len(), &self.options);
        let pitch = longest.next_multiple_of(PAGE);
        self.tables.begin();
        self.tables
            .add_store(sequence, sequence.len(), self.sinks(), (0, 0));
        self.tables.number_scratch(pitch, PAGE);
        self.tables.upload(&*self.backend)?;
        self.run_key(Key::Restore(layer, longest), |engine| {
            let mut recording = Recording::new(format!("history of layer {layer}"));
            let restore = engine.restore_rows(1, longest, 1, pitch, None);
            if let (
                LayerCache::Coded {
                    raw,
                    latents,
                    codec,
                },
                Some(restore),
            ) = (engine.layer_cache(layer as usize), &restore)
            {
                let what = &restore.all;
                let index = layer as usize;
                let cache = (raw, latents, codec);
                let scratch = restore.scratch;
                engine.model.record_restore(
                    &mut recording,
                    index,
                    restore,
                    what,
                    scratch,
                    cache,
                )?;
            }
            Ok(recording)
        })
    }

    /// Compresses `count` blocks of a layer from the staged rows, where the sequence has `earlier` ones.
    fn encode(
        &mut self,
        layer: u32,
        sequence: &Sequence,
        earlier: u32,
        count: u32,
    ) -> Result<(), Error> {
        let sinks = self.sinks();
        let source = sinks.next_multiple_of(PAGE);
        for first in (0..count).step_by(BATCH as usize) {
            let some = (count - first).min(BATCH);
            let capacity = some.next_power_of_two();
            self.tables.begin();
            let known = &sequence.blocks[..(earlier + first + some) as usize];
            let from = source + first * BLOCK;
            self.tables
                .add_blocks(known, earlier + first, some, sinks, from);
            self.tables.upload(&*self.backend)?;
            self.run_key(Key::Encode(layer, capacity), |engine| {
                let mut recording = Recording::new(format!("blocks of layer {layer}"));
                let layout = &engine.tables.layout;
                let cache = engine.layer_cache(layer as usize);
                if let (LayerCache::Coded { latents, codec, .. }, Some(layered)) =
                    (cache, &engine.layered)
                {
                    let with = EncodeTensors {
                        staged: layered.staged(),
                        blocks: layout.first(Region::Blocks, capacity),
                        count: layout.whole(Region::BlockCount),
                        rows: layout.whole(Region::BlockRows),
                        entries: layout.whole(Region::CodedEntries),
                        latents,
                        residual: layered.rows(capacity * BLOCK),
                        z: layered.latents(capacity * BLOCK),
                        inner: layered.inner(capacity * BLOCK),
                    };
                    codec.encode(&mut recording, &with)?;
                }
                Ok(recording)
            })?;
        }
        Ok(())
    }

    /// Copies a sequence's raw pages of a layer to the staged rows.
    fn stage_tail(&self, layer: u32, sequence: &Sequence) -> Result<(), Error> {
        self.copy_pages(layer, &sequence.tail, |index| index, Direction::Stage)
    }

    /// Copies the staged rows that stay raw to a sequence's pages.
    fn keep_tail(&self, layer: u32, before: &Sequence, after: &Sequence) -> Result<(), Error> {
        let sinks = self.sinks().div_ceil(PAGE);
        let compressed = (after.compressed() - before.compressed()) / PAGE;
        let staged = |index| {
            if index < sinks {
                index
            } else {
                index + compressed
            }
        };
        self.copy_pages(layer, &after.tail, staged, Direction::Keep)
    }

    /// Copies raw pages from or to the staged rows; runs of pages that follow each other are copied at once.
    fn copy_pages(
        &self,
        layer: u32,
        pages: &[u32],
        staged_page: impl Fn(u32) -> u32,
        direction: Direction,
    ) -> Result<(), Error> {
        let Some(staged) = self.layered.as_ref().map(Layered::staged) else {
            return Ok(());
        };
        let raw = self.pool.raw(layer as usize);
        let page_bytes = u64::from(PAGE) * raw.row_bytes();
        let pairs: Vec<(u32, u32)> = (0..)
            .zip(pages)
            .map(|(index, &page)| (page, staged_page(index)))
            .collect();
        let next = |a: &(u32, u32), b: &(u32, u32)| a.0 + 1 == b.0 && a.1 + 1 == b.1;
        for run in pairs.chunk_by(next) {
            let (page, row) = run[0];
            let raw = (raw.buffer, u64::from(page) * page_bytes);
            let staged = (staged.buffer, u64::from(row) * page_bytes);
            let bytes = run.len() as u64 * page_bytes;
            match direction {
                Direction::Stage => self.backend.copy(raw, staged, bytes)?,
                Direction::Keep => self.backend.copy(staged, raw, bytes)?,
            }
        }
        Ok(())
    }

    /// Compresses what a decode step has made too long a tail of.
    pub(super) fn compress_tail(&mut self, id: SequenceId) -> Result<(), Error> {
        let sequence = self.found(id)?;
        let range = match self.policy.retention(sequence.len(), sequence.compressed()) {
            Retention::KeepAll => return Ok(()),
            Retention::Compress(range) => range,
        };
        if self.layered.is_none() {
            return Ok(());
        }
        let before = sequence.clone();
        let count = range.len() as u32 / BLOCK;
        let blocks = self.pool.blocks.take(count)?;
        let mut after = before.clone();
        after.blocks.extend(&blocks);
        // What was raw is now what its block gives.
        after.generation = self.generation();
        for layer in 0..self.model.config().layers {
            if let LayerCache::Raw(_) = self.layer_cache(layer as usize) {
                continue;
            }
            let made = self
                .stage_tail(layer, &before)
                .and_then(|()| self.encode(layer, &after, before.blocks.len() as u32, count));
            if let Err(error) = made {
                self.pool.blocks.give_back(blocks);
                return Err(error);
            }
        }
        let sinks = self.sinks().div_ceil(PAGE) as usize;
        let pages = (count * BLOCK / PAGE) as usize;
        let free: Vec<u32> = after.tail.drain(sinks..sinks + pages).collect();
        self.pool.tail.give_back(free);
        self.sequences.insert(id, after);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Stage,
    Keep,
}
