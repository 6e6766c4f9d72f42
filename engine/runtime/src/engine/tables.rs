//! What changes from step to step: row descriptors, views, stores and entries.

use std::sync::Arc;

use longwave_contract::kv::{
    BLOCK, BlockDesc, Entry, PAGE, PickDesc, RowDesc, StoreDesc, ViewDesc,
};
use longwave_contract::op::SampleDesc;
use longwave_contract::{Allocation, Backend, BufferDesc, BufferId, DType, Tensor};

use super::buffers::{BATCH, TILE};
use super::plans::Samples;
use super::{EngineOptions, Feed, Wants};
use crate::error::Error;
use crate::kv::Sequence;
use crate::model::Tile;
use crate::policy::Policy;

/// Bytes between two tables that are rather written than left out.
const GAP: u64 = 16 << 10;

/// A table within the buffer, in the order in which they lie there. Entries come near the end, so that a step uploads only those it has; recent tokens
/// come after them, since few steps have any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Region {
    /// How many rows count.
    Count,
    /// How many logits are asked for.
    Selected,
    /// How many blocks are compressed.
    BlockCount,
    /// How many rows those are.
    BlockRows,
    /// Rows whose logits are asked for.
    Select,
    /// How tokens are chosen by those logits.
    Samplings,
    /// Views of raw rows.
    Views,
    /// Views of chosen entries.
    ChosenViews,
    /// Views of restored rows.
    ScratchViews,
    /// Views of restored rows that were chosen.
    ChosenScratchViews,
    /// What observers rank.
    Picks,
    /// Where sequences' tokens lie.
    Stores,
    /// Blocks that are compressed.
    Blocks,
    /// Rows that count in each tile of restored rows.
    TileCounts,
    /// The same of those that were chosen.
    ChosenTileCounts,
    /// What each row is.
    Rows,
    /// The same for layers that compress.
    CodedRows,
    /// Pages and blocks of stores.
    CodedEntries,
    /// Entries of views of raw rows.
    Entries,
    /// Tokens that are penalised.
    Recent,
}

impl Region {
    const ALL: [Region; 20] = [
        Region::Count,
        Region::Selected,
        Region::BlockCount,
        Region::BlockRows,
        Region::Select,
        Region::Samplings,
        Region::Views,
        Region::ChosenViews,
        Region::ScratchViews,
        Region::ChosenScratchViews,
        Region::Picks,
        Region::Stores,
        Region::Blocks,
        Region::TileCounts,
        Region::ChosenTileCounts,
        Region::Rows,
        Region::CodedRows,
        Region::CodedEntries,
        Region::Entries,
        Region::Recent,
    ];

    /// Rows and columns, for an engine whose policy leaves `raw` tokens of a sequence uncompressed.
    fn shape(self, options: &EngineOptions, raw: Option<u32>) -> (u32, u32) {
        let sequences = options.sequences;
        let tiles = (options.context.next_multiple_of(PAGE) * sequences).div_ceil(TILE);
        let coded = |rows: u32| if raw.is_some() { rows } else { 1 };
        // A count of its own binding for each tile.
        let words = (Tensor::ALIGN / 4) as u32;
        match self {
            Region::Count | Region::Selected | Region::BlockCount | Region::BlockRows => (1, 1),
            Region::Select => (1, sequences),
            Region::Samplings => (sequences, SampleDesc::WORDS),
            Region::Views
            | Region::ChosenViews
            | Region::ScratchViews
            | Region::ChosenScratchViews => (sequences, 4),
            Region::Picks => (sequences, PickDesc::WORDS),
            Region::Stores => (sequences, StoreDesc::WORDS),
            Region::Blocks => (BATCH, BlockDesc::WORDS),
            Region::TileCounts | Region::ChosenTileCounts => (coded(tiles), words),
            Region::Rows => (options.chunk, RowDesc::WORDS),
            Region::CodedRows => (coded(options.chunk.max(sequences)), RowDesc::WORDS),
            Region::CodedEntries => {
                let pages = raw.map_or(0, |raw| raw.div_ceil(PAGE) + 2);
                let blocks = options.context / BLOCK + 1;
                (1, coded(sequences * (pages + blocks)))
            }
            // Of every sequence all that it may hold: they may share pages.
            Region::Entries => (1, sequences * (options.context.div_ceil(PAGE) + 1)),
            // A token of each is only on its way.
            Region::Recent => (1, sequences * (options.context + 1)),
        }
    }
}

/// Where the tables lie in their buffer.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    buffer: BufferId,
    regions: [(u64, u32, u32); Region::ALL.len()],
    pub bytes: u64,
}

impl Layout {
    /// The layout for an engine's limits; its tensors name buffer 0 until it is given one.
    pub fn new(options: &EngineOptions, raw: Option<u32>) -> Self {
        let mut end = 0;
        let regions = Region::ALL.map(|region| {
            let (rows, cols) = region.shape(options, raw);
            let offset = end;
            end = (end + Tensor::new(BufferId(0), DType::U32, rows, cols).bytes())
                .next_multiple_of(Tensor::ALIGN);
            (offset, rows, cols)
        });
        Layout {
            buffer: BufferId(0),
            regions,
            bytes: end,
        }
    }

    /// A whole table.
    pub fn whole(&self, region: Region) -> Tensor {
        self.first(region, u32::MAX)
    }

    /// A table's first rows, as many as there are.
    pub fn first(&self, region: Region, rows: u32) -> Tensor {
        let (offset, limit, cols) = self.regions[region as usize];
        Tensor::new(self.buffer, DType::U32, rows.min(limit), cols).at(offset)
    }

    /// The first columns of a table of one row.
    pub fn leading(&self, region: Region, cols: u32) -> Tensor {
        let whole = self.whole(region);
        Tensor {
            cols: cols.min(whole.cols),
            ..whole
        }
    }

    /// Tiles that cover `rows` restored rows.
    pub fn tiles(&self, region: Region, rows: u32) -> Vec<Tile> {
        let (offset, ..) = self.regions[region as usize];
        tiles(Tensor::new(self.buffer, DType::U32, 1, 1).at(offset), rows)
    }
}

/// Tiles that cover `rows` restored rows, whose counts lie from `counts` on, each in a binding of its own.
pub(super) fn tiles(counts: Tensor, rows: u32) -> Vec<Tile> {
    (0..)
        .zip((0..rows).step_by(TILE as usize))
        .map(|(tile, first): (u64, u32)| Tile {
            first,
            rows: (rows - first).min(TILE),
            count: Tensor::new(counts.buffer, DType::U32, 1, 1)
                .at(counts.offset + tile * Tensor::ALIGN),
        })
        .collect()
}

/// The tables of the current step, on the host and on the device.
pub(super) struct Tables {
    pub layout: Layout,
    buffer: Allocation,
    rows: Vec<RowDesc>,
    coded_rows: Vec<RowDesc>,
    select: Vec<u32>,
    samplings: Vec<SampleDesc>,
    recent: Vec<u32>,
    samples: Samples,
    views: Vec<ViewDesc>,
    picks: Vec<PickDesc>,
    chosen_views: Vec<ViewDesc>,
    scratch_views: Vec<ViewDesc>,
    chosen_scratch_views: Vec<ViewDesc>,
    stores: Vec<StoreDesc>,
    blocks: Vec<BlockDesc>,
    tile_counts: Vec<u32>,
    chosen_tile_counts: Vec<u32>,
    coded_entries: Vec<u32>,
    entries: Vec<Entry>,
    longest: u32,
    staging: Vec<u8>,
}

impl Tables {
    pub fn new(
        backend: &Arc<dyn Backend>,
        options: &EngineOptions,
        raw: Option<u32>,
    ) -> Result<Self, Error> {
        let mut layout = Layout::new(options, raw);
        let desc = BufferDesc {
            label: "step tables".into(),
            bytes: layout.bytes,
            row: layout.bytes,
        };
        let buffer = Allocation::new(backend, &desc)?;
        layout.buffer = buffer.id();
        Ok(Tables {
            layout,
            buffer,
            rows: Vec::new(),
            coded_rows: Vec::new(),
            select: Vec::new(),
            samplings: Vec::new(),
            recent: Vec::new(),
            samples: Samples::Nothing,
            views: Vec::new(),
            picks: Vec::new(),
            chosen_views: Vec::new(),
            scratch_views: Vec::new(),
            chosen_scratch_views: Vec::new(),
            stores: Vec::new(),
            blocks: Vec::new(),
            tile_counts: Vec::new(),
            chosen_tile_counts: Vec::new(),
            coded_entries: Vec::new(),
            entries: Vec::new(),
            longest: 0,
            staging: Vec::new(),
        })
    }

    /// Forgets the last step.
    pub fn begin(&mut self) {
        self.rows.clear();
        self.coded_rows.clear();
        self.select.clear();
        self.samplings.clear();
        self.recent.clear();
        self.samples = Samples::Nothing;
        self.views.clear();
        self.picks.clear();
        self.chosen_views.clear();
        self.scratch_views.clear();
        self.chosen_scratch_views.clear();
        self.stores.clear();
        self.blocks.clear();
        self.tile_counts.clear();
        self.chosen_tile_counts.clear();
        self.coded_entries.clear();
        self.entries.clear();
        self.longest = 0;
    }

    /// Adds one sequence's rows. The sequence holds pages for them.
    pub fn add(&mut self, feed: &Feed<'_>, sequence: &Sequence, policy: &dyn Policy) {
        self.add_from(sequence.len(), feed, sequence, policy);
    }

    /// Adds rows of a sequence that stand at `start`.
    pub fn add_from(
        &mut self,
        start: u32,
        feed: &Feed<'_>,
        sequence: &Sequence,
        policy: &dyn Policy,
    ) {
        let last = start + feed.tokens.len() as u32 - 1;
        let view = self.views.len() as u32;
        for (position, &token) in (start..).zip(feed.tokens) {
            self.rows.push(RowDesc {
                token,
                sequence: feed.sequence.0,
                position,
                slot: sequence.slot(position).map_or(0, |slot| slot.0),
                view,
                staged: 0,
                reserved: [0; 2],
            });
        }
        self.add_wants(feed.wants);
        let view = policy.view(sequence, last, &mut self.entries);
        self.longest = self.longest.max(view.length);
        self.views.push(view);
    }

    /// Adds what is wanted after the row that was added last.
    fn add_wants(&mut self, wants: Wants<'_>) {
        // Rows of which only the logits are wanted stand in one table with others: what is chosen there is not read.
        let desc = match wants {
            Wants::Nothing => return,
            Wants::Logits => SampleDesc::greedy(),
            Wants::Token(sampling) => {
                if sampling.draws() {
                    self.samples = Samples::Drawn;
                } else if self.samples == Samples::Nothing {
                    self.samples = Samples::Greedy;
                }
                let first = self.recent.len() as u32;
                self.recent.extend_from_slice(sampling.recent());
                sampling.desc(first)
            }
        };
        self.select.push(self.rows.len() as u32 - 1);
        self.samplings.push(desc);
    }

    /// Adds what following layers read of a sequence whose single row was added last. `pitch` is the distance between the entries of two
    /// picks. All of a step's sequences are added so, or none: row, view and pick have the same index.
    pub fn add_pick(&mut self, sequence: &Sequence, policy: &dyn Policy, pitch: u32) {
        let position = sequence.len();
        let index = self.picks.len() as u32;
        let pick = policy.pick(index, sequence);
        self.picks.push(pick);
        self.chosen_views.push(ViewDesc {
            first: index * pitch,
            length: pick.length(position + 1),
            last: position,
            run: 1,
        });
    }

    /// Adds the store of a sequence of `length` tokens that has `lane`.
    pub fn add_store(
        &mut self,
        sequence: &Sequence,
        length: u32,
        sinks: u32,
        (chosen, lane): (u32, u32),
    ) {
        let pages = self.coded_entries.len() as u32;
        self.coded_entries.extend(&sequence.tail);
        let blocks = self.coded_entries.len() as u32;
        self.coded_entries.extend(&sequence.blocks);
        self.stores.push(StoreDesc {
            sinks,
            compressed: sequence.compressed(),
            length,
            chosen,
            pages,
            blocks,
            lane,
            generation: sequence.generation,
        });
    }

    /// Adds what layers that compress need of a decode step's sequence whose row was added last, and which has `lane`.
    pub fn add_coded(&mut self, sequence: &Sequence, sinks: u32, lane: u32) {
        let position = sequence.len();
        let index = self.coded_rows.len();
        if let Some(row) = self.rows.get(index) {
            let slot = sequence.tail_slot(position, sinks);
            self.coded_rows.push(RowDesc {
                slot: slot.map_or(0, |slot| slot.0),
                ..*row
            });
        }
        let chosen = self.chosen_views.get(index).map_or(0, |view| view.length);
        self.add_store(sequence, position + 1, sinks, (chosen, lane));
    }

    /// Says how restored rows are numbered: `pitch` of all, and of chosen ones, apart.
    pub fn number_scratch(&mut self, pitch: u32, chosen_pitch: u32) {
        let lengths: Vec<(u32, u32)> = self
            .stores
            .iter()
            .map(|store| (store.length, store.chosen))
            .collect();
        let view = |index: usize, pitch: u32, length: u32, last: u32| ViewDesc {
            first: index as u32 * (pitch / PAGE),
            length,
            last,
            run: PAGE,
        };
        for (index, &(length, chosen)) in lengths.iter().enumerate() {
            let last = length.saturating_sub(1);
            self.scratch_views.push(view(index, pitch, length, last));
            self.chosen_scratch_views
                .push(view(index, chosen_pitch, chosen, last));
        }
        let used = |pitch: u32, last: Option<u32>| {
            let before = lengths.len().saturating_sub(1) as u32 * pitch;
            last.map_or(0, |last| before + last)
        };
        let counts = |used: u32, rows: u32| {
            let firsts = (0..rows).step_by(TILE as usize);
            firsts
                .map(|first| used.saturating_sub(first).min(TILE))
                .collect()
        };
        let last = lengths.last();
        let rows = |pitch: u32| pitch * lengths.len() as u32;
        self.tile_counts = counts(used(pitch, last.map(|last| last.0)), rows(pitch));
        let chosen = used(chosen_pitch, last.map(|last| last.1));
        self.chosen_tile_counts = counts(chosen, rows(chosen_pitch));
    }

    /// Adds a chunk of a prompt for layers that compress: rows go to the scratch rows of their positions, and to staged rows from that of
    /// `staged` on.
    pub fn add_chunk(&mut self, staged: impl Fn(u32) -> u32) {
        let rows = self.rows.iter().map(|row| RowDesc {
            slot: row.position,
            staged: staged(row.position),
            view: 0,
            ..*row
        });
        self.coded_rows.extend(rows);
        if let Some(last) = self.rows.last() {
            self.scratch_views.push(ViewDesc {
                first: 0,
                length: last.position + 1,
                last: last.position,
                run: PAGE,
            });
        }
    }

    /// Adds blocks of a sequence that are compressed, its `earlier` ones before them, from staged row `source` on.
    pub fn add_blocks(
        &mut self,
        blocks: &[u32],
        earlier: u32,
        count: u32,
        sinks: u32,
        source: u32,
    ) {
        self.coded_entries.extend(blocks);
        self.blocks.extend((0..count).map(|index| BlockDesc {
            source: source + index * BLOCK,
            index: earlier + index,
            sinks,
            blocks: 0,
            reserved: [0; 4],
        }));
    }

    /// The most tokens that a following layer's row reads; 0 where there are no picks.
    pub fn longest_chosen(&self) -> u32 {
        let lengths = self.chosen_views.iter().map(|view| view.length);
        lengths.max().unwrap_or(0)
    }

    pub fn row_count(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Whether tokens are wanted, and how they are chosen.
    pub fn samples(&self) -> Samples {
        self.samples
    }

    pub fn selected_count(&self) -> u32 {
        self.select.len() as u32
    }

    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// Writes the tables to the device.
    ///
    /// # Errors
    /// A table is longer than its place, which the engine's checks prevent, or the device fails.
    pub fn upload(&mut self, backend: &dyn Backend) -> Result<(), Error> {
        let counts = [
            self.rows.len() as u32,
            self.select.len() as u32,
            self.blocks.len() as u32,
            self.blocks.len() as u32 * BLOCK,
        ];
        let tiles = |counts: &[u32]| {
            let mut words = vec![0u32; counts.len() * (Tensor::ALIGN / 4) as usize];
            for (words, &count) in words.chunks_mut((Tensor::ALIGN / 4) as usize).zip(counts) {
                words[0] = count;
            }
            words
        };
        let (all, chosen) = (tiles(&self.tile_counts), tiles(&self.chosen_tile_counts));
        let pieces: [(Region, &[u8]); 20] = [
            (Region::Count, bytemuck::bytes_of(&counts[0])),
            (Region::Selected, bytemuck::bytes_of(&counts[1])),
            (Region::BlockCount, bytemuck::bytes_of(&counts[2])),
            (Region::BlockRows, bytemuck::bytes_of(&counts[3])),
            (Region::Select, bytemuck::cast_slice(&self.select)),
            (Region::Samplings, bytemuck::cast_slice(&self.samplings)),
            (Region::Views, bytemuck::cast_slice(&self.views)),
            (
                Region::ChosenViews,
                bytemuck::cast_slice(&self.chosen_views),
            ),
            (
                Region::ScratchViews,
                bytemuck::cast_slice(&self.scratch_views),
            ),
            (
                Region::ChosenScratchViews,
                bytemuck::cast_slice(&self.chosen_scratch_views),
            ),
            (Region::Picks, bytemuck::cast_slice(&self.picks)),
            (Region::Stores, bytemuck::cast_slice(&self.stores)),
            (Region::Blocks, bytemuck::cast_slice(&self.blocks)),
            (Region::TileCounts, bytemuck::cast_slice(&all)),
            (Region::ChosenTileCounts, bytemuck::cast_slice(&chosen)),
            (Region::Rows, bytemuck::cast_slice(&self.rows)),
            (Region::CodedRows, bytemuck::cast_slice(&self.coded_rows)),
            (
                Region::CodedEntries,
                bytemuck::cast_slice(&self.coded_entries),
            ),
            (Region::Entries, bytemuck::cast_slice(&self.entries)),
            (Region::Recent, bytemuck::cast_slice(&self.recent)),
        ];
        // In runs: what lies between the tables of a long prompt and the next ones would be most of the bytes of a short step.
        let mut runs: Vec<(u64, u64)> = Vec::new();
        self.staging.clear();
        for (region, bytes) in pieces {
            let place = self.layout.whole(region);
            if bytes.len() as u64 > place.bytes() {
                return Err(Error::Parameter(format!(
                    "{} bytes of {region:?} in a step with room for {}",
                    bytes.len(),
                    place.bytes()
                )));
            }
            if bytes.is_empty() {
                continue;
            }
            let end = place.offset + bytes.len() as u64;
            match runs.last_mut() {
                Some(run) if place.offset - run.1 <= GAP => {
                    let gap = (place.offset - run.1) as usize;
                    self.staging.resize(self.staging.len() + gap, 0);
                    run.1 = end;
                }
                _ => runs.push((place.offset, end)),
            }
            self.staging.extend_from_slice(bytes);
        }
        let mut rest = self.staging.as_slice();
        for (start, end) in runs {
            let (now, later) = rest.split_at((end - start) as usize);
            backend.write(self.buffer.id(), start, now)?;
            rest = later;
        }
        Ok(())
    }
}
