//! Steps: some rows of some sequences through all layers, in one recording or two.

use longwave_contract::Recording;
use longwave_contract::kv::PAGE;
use longwave_contract::op::{NO_CHOICE, Tokens};

use super::plans::{Bucket, Key, Samples};
use super::tables::Region;
use super::{Engine, Feed, Given, Outcome, Wants, reads_stored};
use crate::error::Error;
use crate::kv::Sequence;
use crate::model::{
    ChoiceTensors, LayerCache, Restoration, RestoreStep, SampleTensors, StepTensors, as_list,
};

impl Engine {
    /// Takes in what [`Engine::check`] has passed; `chooses` says for each feed whether it is a decode step. Where nothing is read and it does not
    /// `wait`, it may still be running.
    pub(super) fn advance(
        &mut self,
        feeds: &[Feed<'_>],
        chooses: &[bool],
        waits: bool,
    ) -> Result<Outcome, Error> {
        let mut given = vec![Given::Nothing; feeds.len()];
        let mut rest: Vec<usize> = (0..feeds.len()).collect();
        if self.layered.is_some() {
            // Prompts are compressed layer by layer, each on its own.
            for index in rest.extract_if(.., |index| !chooses[*index]) {
                let feed = &feeds[index];
                given[index] =
                    self.prefill_layers(feed.sequence, feed.tokens, feed.wants, &mut |_| {}, None)?;
            }
        }
        let decoding: Vec<Feed<'_>> = rest.iter().map(|&index| feeds[index]).collect();
        let chooses: Vec<bool> = rest.iter().map(|&index| chooses[index]).collect();
        for (group, selects) in self.groups(&decoding, &chooses) {
            let some: Vec<Feed<'_>> = group.iter().map(|&index| decoding[index]).collect();
            let made = self.fill(&some, selects).and_then(|bucket| {
                self.run_key(Key::Step(bucket), |engine| engine.record(bucket))?;
                self.read_given(some.iter().map(|feed| feed.wants))
            });
            if made.is_err() {
                self.doubt(&decoding);
            }
            for (index, found) in group.into_iter().zip(made?) {
                given[rest[index]] = found;
            }
        }
        let read = |given: &Given| !matches!(given, Given::Nothing);
        if waits && !given.iter().any(read) {
            // Nothing was read: only now is it known that nothing failed.
            let ended = self.newest.map_or(Ok(()), |run| self.backend.wait(run));
            if ended.is_err() {
                self.doubt(&decoding);
            }
            ended?;
        }
        for feed in &decoding {
            if let Some(sequence) = self.sequences.get_mut(&feed.sequence) {
                sequence.tokens.extend_from_slice(feed.tokens);
            }
            self.compress_tail(feed.sequence)?;
        }
        Ok(Outcome::of(given))
    }

    /// After a step that failed, rows may be said to be resident that were never restored.
    fn doubt(&mut self, feeds: &[Feed<'_>]) {
        for feed in feeds {
            let generation = self.generation();
            if let Some(sequence) = self.sequences.get_mut(&feed.sequence) {
                sequence.generation = generation;
            }
        }
    }

    /// Runs a plan, which is recorded first where it is new. It may still be running afterwards: whoever reads what it wrote waits for it.
    pub(super) fn run_key(
        &mut self,
        key: Key,
        record: impl FnOnce(&Engine) -> Result<Recording, Error>,
    ) -> Result<(), Error> {
        if !self.plans.contains(key) {
            let recording = record(self)?;
            self.plans.insert(key, &recording)?;
        }
        self.newest = Some(self.plans.run(key)?);
        Ok(())
    }

    /// The feeds that share a recording, and whether something is left out for them: all for which it is, and all others.
    pub(super) fn groups(&self, feeds: &[Feed<'_>], chooses: &[bool]) -> Vec<(Vec<usize>, bool)> {
        let drops = |index: usize| {
            let sequence = self.sequences.get(&feeds[index].sequence);
            let pick = sequence.map(|sequence| self.policy.pick(0, sequence));
            chooses[index] && pick.is_some_and(|pick| pick.candidates > pick.keep)
        };
        let (some, all): (Vec<usize>, Vec<usize>) = match self.policy.budget() {
            None => (Vec::new(), (0..feeds.len()).collect()),
            Some(_) => (0..feeds.len()).partition(|&index| drops(index)),
        };
        [(all, false), (some, true)]
            .into_iter()
            .filter(|(group, _)| !group.is_empty())
            .collect()
    }

    /// Takes the pages that feeds need and writes the tables of their recording; where it `selects`, all of them choose what they read.
    pub(super) fn fill(&mut self, feeds: &[Feed<'_>], selects: bool) -> Result<Bucket, Error> {
        for feed in feeds {
            self.take_pages(feed.sequence, feed.tokens.len() as u32)?;
        }
        let pitch = self.choice.as_ref().map_or(0, |choice| choice.pitch());
        let sinks = self.sinks();
        let ids: Vec<_> = feeds.iter().map(|feed| feed.sequence).collect();
        let lanes = match &mut self.resident {
            Some(resident) if selects => resident.lanes(&ids),
            _ => vec![0; feeds.len()],
        };
        self.tables.begin();
        for (feed, lane) in feeds.iter().zip(lanes) {
            let sequence = self
                .sequences
                .get(&feed.sequence)
                .ok_or(Error::NoSequence(feed.sequence))?;
            self.tables.add(feed, sequence, &*self.policy);
            if selects {
                self.tables.add_pick(sequence, &*self.policy, pitch);
            }
            if self.layered.is_some() {
                self.tables.add_coded(sequence, sinks, lane);
            }
        }
        let most = self.choice.as_ref().map_or(0, |choice| choice.tokens());
        let bucket = Bucket::of(&self.tables, &self.options, most);
        if self.layered.is_some() {
            let (all, chosen) = pitches(bucket);
            self.tables.number_scratch(all, chosen);
        }
        self.tables.upload(&*self.backend)?;
        Ok(bucket)
    }

    /// Takes the pages that a sequence needs for `more` tokens.
    fn take_pages(&mut self, id: crate::kv::SequenceId, more: u32) -> Result<(), Error> {
        self.own_pages(id)?;
        let sinks = self.sinks();
        let sequence = self.sequences.get_mut(&id).ok_or(Error::NoSequence(id))?;
        let length = sequence.len() + more;
        let pages = self.pool.pages.take(sequence.missing_pages(length))?;
        sequence.pages.extend(pages);
        if self.layered.is_some() {
            let wanted = sequence.tail_pages(length, sinks);
            let missing = wanted.saturating_sub(sequence.tail.len() as u32);
            sequence.tail.extend(self.pool.tail.take(missing)?);
        }
        Ok(())
    }

    /// The tensors of a step, or of a chunk of a prompt, with this bucket.
    pub(super) fn step_tensors(&self, bucket: Bucket) -> StepTensors {
        let config = self.model.config();
        let layout = &self.tables.layout;
        StepTensors {
            rows: layout.first(Region::Rows, bucket.rows),
            count: layout.whole(Region::Count),
            select: layout.leading(Region::Select, bucket.logits.max(1)),
            selected: layout.whole(Region::Selected),
            views: layout.whole(Region::Views),
            entries: layout.whole(Region::Entries),
            x: self.activations.tensor(0, bucket.rows, config.width),
            q: self.activations.tensor(1, bucket.rows, config.q_width()),
            attended: self.activations.tensor(2, bucket.rows, config.q_width()),
            inner: self.activations.tensor(3, bucket.rows, config.inner),
            logits: (bucket.logits > 0)
                .then(|| self.activations.tensor(4, bucket.logits, config.vocabulary)),
            sample: match bucket.samples {
                Samples::Nothing => None,
                samples => Some(SampleTensors {
                    samplings: layout.first(Region::Samplings, bucket.logits),
                    recent: layout.whole(Region::Recent),
                    draws: samples == Samples::Drawn,
                    tokens: self.activations.tokens(bucket.logits),
                }),
            },
            longest: bucket.longest,
            choice: self
                .choice
                .as_ref()
                .filter(|_| bucket.chosen > 0)
                .map(|choice| ChoiceTensors {
                    overlap: self.options.overlap,
                    ..choice.tensors(bucket, layout)
                }),
        }
    }

    /// Records a step.
    pub(super) fn record(&self, bucket: Bucket) -> Result<Recording, Error> {
        let step = self.step_tensors(bucket);
        let label = format!(
            "step of {} rows over {} tokens",
            bucket.rows, bucket.longest
        );
        let restore = self.restore_step(bucket, step.choice.as_ref());
        let cache = |layer| self.layer_cache(layer);
        Ok(self
            .model
            .record(label, &step, restore.as_ref(), &*self.policy, cache)?)
    }

    /// Where a layer keeps its tokens.
    pub(super) fn layer_cache(&self, layer: usize) -> LayerCache<'_> {
        let raw = self.pool.raw(layer);
        match (self.pool.latents(layer), self.codecs.get(layer)) {
            (Some(latents), Some(Some(codec))) => LayerCache::Coded {
                raw,
                latents,
                codec,
            },
            _ => LayerCache::Raw(raw),
        }
    }

    /// How layers that compress restore the tokens of a decode step.
    fn restore_step(&self, bucket: Bucket, choice: Option<&ChoiceTensors>) -> Option<RestoreStep> {
        let layout = &self.tables.layout;
        let sequences = bucket.rows.min(self.options.sequences);
        let (pitch, chosen_pitch) = pitches(bucket);
        let resident = match (&self.resident, choice) {
            (Some(resident), Some(choice)) => Some((resident.step(bucket, choice), choice)),
            _ => None,
        };
        let pages = self.layered.as_ref()?.scratch_pages();
        let (resident, chosen) = match resident {
            Some(((step, tiles), choice)) => {
                let chosen = Restoration {
                    tokens: Tokens::Missing(step.misses),
                    pitch: 1,
                    tiles,
                    views: choice.views,
                    entries: as_list(step.entries),
                    longest: bucket.chosen,
                };
                (Some(step), Some(chosen))
            }
            None => {
                let chosen = choice.map(|choice| Restoration {
                    tokens: Tokens::Listed(choice.chosen),
                    pitch: chosen_pitch,
                    tiles: layout.tiles(Region::ChosenTileCounts, sequences * chosen_pitch),
                    views: layout.whole(Region::ChosenScratchViews),
                    entries: pages,
                    longest: bucket.chosen,
                });
                (None, chosen)
            }
        };
        let restore = self.restore_rows(bucket.rows, bucket.longest, sequences, pitch, chosen)?;
        Some(RestoreStep {
            resident,
            ..restore
        })
    }

    /// The tensors by which the tokens of `sequences` sequences, `pitch` rows each, are restored.
    pub(super) fn restore_rows(
        &self,
        rows: u32,
        longest: u32,
        sequences: u32,
        pitch: u32,
        chosen: Option<Restoration>,
    ) -> Option<RestoreStep> {
        let layered = self.layered.as_ref()?;
        let layout = &self.tables.layout;
        let all = Restoration {
            tokens: Tokens::All,
            pitch,
            tiles: layout.tiles(Region::TileCounts, sequences * pitch),
            views: layout.whole(Region::ScratchViews),
            entries: layered.scratch_pages(),
            longest,
        };
        let restored = |what: &Restoration| what.tiles.iter().map(|tile| tile.rows).max();
        let most = restored(&all)
            .max(chosen.as_ref().and_then(restored))
            .unwrap_or(1);
        Some(RestoreStep {
            rows: layout.first(Region::CodedRows, rows),
            stores: layout.first(Region::Stores, sequences),
            entries: layout.whole(Region::CodedEntries),
            all,
            chosen,
            out: layered.rows(most),
            z: layered.latents(most),
            inner: layered.inner(most),
            scratch: layered.scratch(),
            resident: None,
            reads_stored: reads_stored(&*self.backend, &self.model),
        })
    }

    /// What feeds that took part in the last recording want of it.
    pub(super) fn read_given<'a>(
        &self,
        wants: impl Iterator<Item = Wants<'a>>,
    ) -> Result<Vec<Given>, Error> {
        let limit = self.options.sequences;
        let vocabulary = self.model.config().vocabulary;
        let logits = self.activations.tensor(4, limit, vocabulary);
        let wants: Vec<_> = wants.collect();
        let rows = wants
            .iter()
            .filter(|wants| !matches!(wants, Wants::Nothing));
        let mut tokens = vec![NO_CHOICE; rows.count()];
        if wants.iter().any(|wants| matches!(wants, Wants::Token(_))) {
            let buffer = self.activations.tokens(limit).buffer;
            let bytes = bytemuck::cast_slice_mut(&mut tokens);
            self.backend.read(buffer, 0, bytes)?;
        }
        let mut row = 0;
        let mut given = Vec::new();
        for wants in wants {
            given.push(match wants {
                Wants::Nothing => Given::Nothing,
                Wants::Logits => {
                    let mut found = vec![0.0f32; vocabulary as usize];
                    let bytes = bytemuck::cast_slice_mut(&mut found);
                    let at = row as u64 * logits.row_bytes();
                    self.backend.read(logits.buffer, at, bytes)?;
                    Given::Logits(found)
                }
                Wants::Token(_) => {
                    let token = tokens.get(row).copied();
                    Given::Token(token.filter(|&token| token != NO_CHOICE))
                }
            });
            row += usize::from(!matches!(wants, Wants::Nothing));
        }
        Ok(given)
    }

    /// The sequence, which a check has found.
    pub(super) fn found(&self, id: crate::kv::SequenceId) -> Result<&Sequence, Error> {
        self.sequences.get(&id).ok_or(Error::NoSequence(id))
    }
}

/// Scratch rows from one sequence to the next: where all tokens are restored, and where chosen ones are.
fn pitches(bucket: Bucket) -> (u32, u32) {
    (
        bucket.longest.next_multiple_of(PAGE),
        bucket.chosen.next_multiple_of(PAGE),
    )
}
