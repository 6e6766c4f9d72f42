//! Prompts of policies that compress: layer by layer over the whole prompt, so that one layer's raw rows are held at a time.

use std::ops::Range;

use longwave_contract::kv::{BLOCK, KeySpace, PAGE};
use longwave_contract::{Recording, Tensor};

use super::buffers::{BATCH, Layered};
use super::plans::{Bucket, Key};
use super::tables::Region;
use super::{Engine, Feed, Wants};
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
pub(super) struct Staging {
    pub sinks: u32,
    pub compressed: u32,
}

impl Staging {
    /// The first row of the tail.
    fn tail(self) -> u32 {
        self.sinks.next_multiple_of(PAGE)
    }

    pub fn row(self, position: u32) -> u32 {
        match position.checked_sub(self.sinks) {
            None => position,
            Some(after) => self.tail() + after - self.compressed,
        }
    }
}

impl Engine {
    /// Fills the tables of a chunk, which are still to be uploaded.
    pub(super) fn fill_chunk(
        &mut self,
        (id, wants): (SequenceId, Wants<'_>),
        after: &Sequence,
        start: u32,
        tokens: &[u32],
        staging: Staging,
    ) {
        let feed = Feed {
            sequence: id,
            tokens,
            wants,
        };
        self.tables.begin();
        self.tables.add_from(start, &feed, after, &*self.policy);
        self.tables.add_chunk(|position| staging.row(position));
    }

    /// Records one layer over a chunk.
    pub(super) fn record_layer(&self, layer: u32, step: &StepTensors) -> Result<Recording, Error> {
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
                let (scratch, staged) = (layered.prompt(), Some(layered.staged()));
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
    pub(super) fn restore_history(&mut self, layer: u32, sequence: &Sequence) -> Result<(), Error> {
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
                Some(layered),
            ) = (
                engine.layer_cache(layer as usize),
                &restore,
                &engine.layered,
            ) {
                let what = &restore.all;
                let index = layer as usize;
                let cache = (raw, latents, codec);
                let scratch = layered.prompt();
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

    /// Adds some of the blocks that follow a sequence's `earlier` ones to the tables.
    pub(super) fn add_batch(&mut self, sequence: &Sequence, earlier: u32, some: Range<u32>) {
        let sinks = self.sinks();
        let from = sinks.next_multiple_of(PAGE) + some.start * BLOCK;
        let known = &sequence.blocks[..(earlier + some.end) as usize];
        let first = earlier + some.start;
        self.tables
            .add_blocks(known, first, some.end - some.start, sinks, from);
    }

    /// Compresses `count` blocks of a layer from the staged rows, where the sequence has `earlier` ones; `is_filled` where the tables tell of them
    /// already.
    pub(super) fn encode(
        &mut self,
        layer: u32,
        sequence: &Sequence,
        earlier: u32,
        count: u32,
        is_filled: bool,
    ) -> Result<(), Error> {
        for first in (0..count).step_by(BATCH as usize) {
            let some = (count - first).min(BATCH);
            let capacity = some.next_power_of_two();
            if !is_filled {
                self.tables.begin();
                self.add_batch(sequence, earlier, first..first + some);
                self.tables.upload(&*self.backend)?;
            }
            self.run_key(Key::Encode(layer, capacity), |engine| {
                let mut recording = Recording::new(format!("blocks of layer {layer}"));
                engine.record_blocks(&mut recording, layer, capacity)?;
                Ok(recording)
            })?;
        }
        Ok(())
    }

    /// Records that up to `capacity` blocks of a layer are compressed.
    pub(super) fn record_blocks(
        &self,
        recording: &mut Recording,
        layer: u32,
        capacity: u32,
    ) -> Result<(), Error> {
        let layout = &self.tables.layout;
        let cache = self.layer_cache(layer as usize);
        if let (LayerCache::Coded { latents, codec, .. }, Some(layered)) = (cache, &self.layered) {
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
            codec.encode(recording, &with)?;
        }
        Ok(())
    }

    /// Copies a sequence's raw pages of a layer to the staged rows.
    pub(super) fn stage_tail(&self, layer: u32, sequence: &Sequence) -> Result<(), Error> {
        self.copy_pages(layer, &sequence.tail, |index| index, Direction::Stage)
    }

    /// Copies the staged rows that stay raw to a sequence's pages.
    pub(super) fn keep_tail(
        &self,
        layer: u32,
        before: &Sequence,
        after: &Sequence,
    ) -> Result<(), Error> {
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
            let made = self.stage_tail(layer, &before).and_then(|()| {
                self.encode(layer, &after, before.blocks.len() as u32, count, false)
            });
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
