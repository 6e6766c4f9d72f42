//! What changes from step to step: row descriptors, views and entries, written to the device in one piece.

use std::sync::Arc;

use longwave_contract::kv::{Entry, PAGE, PickDesc, RowDesc, ViewDesc};
use longwave_contract::{Allocation, Backend, BufferDesc, BufferId, DType, Tensor};

use super::{EngineOptions, Feed};
use crate::error::Error;
use crate::kv::Sequence;
use crate::policy::{Budget, Policy};

/// Where the tables lie in their buffer. Entries come last, so that a step uploads only those it has.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    buffer: BufferId,
    rows: u32,
    sequences: u32,
    entries: u32,
    select_offset: u64,
    views_offset: u64,
    picks_offset: u64,
    chosen_views_offset: u64,
    rows_offset: u64,
    entries_offset: u64,
    pub bytes: u64,
}

impl Layout {
    /// The layout for an engine's limits; its tensors name buffer 0 until it is given one.
    pub fn new(options: &EngineOptions) -> Self {
        let entries = options.cache_tokens.div_ceil(PAGE).max(1) + options.sequences;
        let mut end = 2 * Tensor::ALIGN;
        let mut place = |rows, cols| {
            let offset = end;
            end = (end + Tensor::new(BufferId(0), DType::U32, rows, cols).bytes())
                .next_multiple_of(Tensor::ALIGN);
            offset
        };
        Layout {
            buffer: BufferId(0),
            rows: options.chunk,
            sequences: options.sequences,
            entries,
            select_offset: place(1, options.sequences),
            views_offset: place(options.sequences, 4),
            picks_offset: place(options.sequences, PickDesc::WORDS),
            chosen_views_offset: place(options.sequences, 4),
            rows_offset: place(options.chunk, RowDesc::WORDS),
            entries_offset: place(1, entries),
            bytes: end,
        }
    }

    fn tensor(&self, offset: u64, rows: u32, cols: u32) -> Tensor {
        Tensor::new(self.buffer, DType::U32, rows, cols).at(offset)
    }

    pub fn count(&self) -> Tensor {
        self.tensor(0, 1, 1)
    }

    pub fn selected(&self) -> Tensor {
        self.tensor(Tensor::ALIGN, 1, 1)
    }

    pub fn select(&self, capacity: u32) -> Tensor {
        self.tensor(self.select_offset, 1, capacity.min(self.sequences))
    }

    pub fn views(&self) -> Tensor {
        self.tensor(self.views_offset, self.sequences, 4)
    }

    /// One for each of the sequences that decode in a step.
    pub fn picks(&self, capacity: u32) -> Tensor {
        self.tensor(
            self.picks_offset,
            capacity.min(self.sequences),
            PickDesc::WORDS,
        )
    }

    /// Views of the entries that picks made.
    pub fn chosen_views(&self) -> Tensor {
        self.tensor(self.chosen_views_offset, self.sequences, 4)
    }

    pub fn rows(&self, capacity: u32) -> Tensor {
        self.tensor(self.rows_offset, capacity.min(self.rows), RowDesc::WORDS)
    }

    pub fn entries(&self) -> Tensor {
        self.tensor(self.entries_offset, 1, self.entries)
    }
}

/// The tables of the current step, on the host and on the device.
pub(super) struct Tables {
    pub layout: Layout,
    buffer: Allocation,
    rows: Vec<RowDesc>,
    select: Vec<u32>,
    views: Vec<ViewDesc>,
    picks: Vec<PickDesc>,
    chosen_views: Vec<ViewDesc>,
    entries: Vec<Entry>,
    longest: u32,
    staging: Vec<u8>,
}

impl Tables {
    pub fn new(backend: &Arc<dyn Backend>, options: &EngineOptions) -> Result<Self, Error> {
        let mut layout = Layout::new(options);
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
            select: Vec::new(),
            views: Vec::new(),
            picks: Vec::new(),
            chosen_views: Vec::new(),
            entries: Vec::new(),
            longest: 0,
            staging: Vec::new(),
        })
    }

    /// Forgets the last step.
    pub fn begin(&mut self) {
        self.rows.clear();
        self.select.clear();
        self.views.clear();
        self.picks.clear();
        self.chosen_views.clear();
        self.entries.clear();
        self.longest = 0;
    }

    /// Adds one sequence's rows. The sequence holds pages for them.
    pub fn add(&mut self, feed: &Feed<'_>, sequence: &Sequence, policy: &dyn Policy) {
        let start = sequence.len();
        let last = start + feed.tokens.len() as u32 - 1;
        let view = self.views.len() as u32;
        for (position, &token) in (start..).zip(feed.tokens) {
            self.rows.push(RowDesc {
                token,
                sequence: feed.sequence.0,
                position,
                slot: sequence.slot(position).map_or(0, |slot| slot.0),
                view,
                reserved: [0; 3],
            });
        }
        if feed.logits {
            self.select.push(self.rows.len() as u32 - 1);
        }
        let view = policy.view(sequence, last, &mut self.entries);
        self.longest = self.longest.max(view.length);
        self.views.push(view);
    }

    /// Adds one sequence's single row of a decode step, for which following layers read what a pick chooses. `pitch` is the distance between
    /// the entries of two picks. All of a step's sequences are added so, or none: row, view and pick have the same index.
    pub fn add_picked(
        &mut self,
        feed: &Feed<'_>,
        sequence: &Sequence,
        policy: &dyn Policy,
        budget: Budget,
        pitch: u32,
    ) {
        self.add(feed, sequence, policy);
        let position = sequence.len();
        let index = self.picks.len() as u32;
        let pick = budget.pick(index, position + 1);
        self.picks.push(pick);
        self.chosen_views.push(ViewDesc {
            first: index * pitch,
            length: pick.length(position + 1),
            last: position,
            run: 1,
        });
    }

    /// The most tokens that a following layer's row reads; 0 where there are no picks.
    pub fn longest_chosen(&self) -> u32 {
        let lengths = self.chosen_views.iter().map(|view| view.length);
        lengths.max().unwrap_or(0)
    }

    pub fn row_count(&self) -> u32 {
        self.rows.len() as u32
    }

    pub fn selected_count(&self) -> u32 {
        self.select.len() as u32
    }

    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// Writes the tables to the device, in one piece.
    pub fn upload(&mut self, backend: &dyn Backend) -> Result<(), Error> {
        let layout = &self.layout;
        let used = layout.entries_offset + self.entries.len() as u64 * 4;
        self.staging.clear();
        self.staging.resize(used.next_multiple_of(4) as usize, 0);
        let counts = [self.rows.len() as u32, self.select.len() as u32];
        let pieces: [(u64, &[u8]); 8] = [
            (0, bytemuck::bytes_of(&counts[0])),
            (Tensor::ALIGN, bytemuck::bytes_of(&counts[1])),
            (layout.select_offset, bytemuck::cast_slice(&self.select)),
            (layout.views_offset, bytemuck::cast_slice(&self.views)),
            (layout.picks_offset, bytemuck::cast_slice(&self.picks)),
            (
                layout.chosen_views_offset,
                bytemuck::cast_slice(&self.chosen_views),
            ),
            (layout.rows_offset, bytemuck::cast_slice(&self.rows)),
            (layout.entries_offset, bytemuck::cast_slice(&self.entries)),
        ];
        for (offset, bytes) in pieces {
            let at = offset as usize;
            self.staging[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(backend.write(self.buffer.id(), 0, &self.staging)?)
    }
}
