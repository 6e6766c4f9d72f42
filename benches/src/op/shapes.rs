//! The shapes of a model's ops, and sequences to run them on.

use std::fmt;

use longwave_contract::DType;
use longwave_contract::kv::{
    BLOCK, BlockDesc, Entry, LatentShape, PAGE, PickDesc, RowDesc, ScaleRule, Slot, Tier, ViewDesc,
};
use longwave_runtime::model::ModelConfig;
use longwave_runtime::policy::Budget;
use longwave_tests::latent::{Sequence, plain, referring};
use longwave_tests::rig::{Rig, raw};

use super::Case;

/// Blocks that are compressed at a time.
const NEW_BLOCKS: u32 = 32;

/// Tokens that are restored at a time.
const TILE: u32 = 4096;

/// At which shapes ops are measured.
#[derive(Clone, Debug)]
pub struct Shapes {
    /// The model's dimensions.
    pub config: ModelConfig,
    /// The type of its matrices.
    pub dtype: DType,
    /// Rows of a step.
    pub rows: Vec<u32>,
    /// Tokens of a sequence.
    pub depth: u32,
}

/// Tokens that are restored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restored {
    /// How many.
    pub rows: u32,
    /// Whether they are named one by one.
    pub listed: bool,
    /// Tokens of the sequence.
    pub length: u32,
    sinks: u32,
    blocks: u32,
}

impl Restored {
    /// Sinks, blocks, a tail, and how many tokens a list names.
    pub fn sequence(self) -> Sequence {
        let tail = self.length - self.sinks - self.blocks * BLOCK;
        let chosen = if self.listed { self.rows } else { 0 };
        (self.sinks, self.blocks, tail, chosen)
    }
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.listed { "chosen" } else { "first" };
        write!(f, "{} {how} of {}", self.rows, self.length)
    }
}

impl Shapes {
    /// A case for each number of rows.
    pub(super) fn each_row_count(&self, case: impl Fn(u32) -> Case) -> Vec<Case> {
        self.rows.iter().map(|&rows| case(rows)).collect()
    }

    /// Tokens at the beginning that are never compressed.
    pub(super) fn sinks(&self) -> u32 {
        Budget::default().sink.min(self.depth)
    }

    /// Blocks of a sequence that are there before others are made.
    pub(super) fn old_blocks(&self) -> u32 {
        (self.depth / BLOCK).saturating_sub(self.new_blocks())
    }

    /// Blocks of a sequence that is compressed as far as it is in decode steps.
    pub(super) fn stored_blocks(&self) -> u32 {
        let raw = self.sinks() + Budget::default().recent;
        self.depth.saturating_sub(raw) / BLOCK
    }

    /// Blocks that are made.
    pub(super) fn new_blocks(&self) -> u32 {
        (self.depth / BLOCK).clamp(1, NEW_BLOCKS)
    }

    /// Blocks as calibration makes them: a reference every 16 tokens, four of them a base, two escapes.
    pub(super) fn latent(&self) -> LatentShape {
        let cols = self.config.shape.cols();
        LatentShape {
            escapes: 2,
            ..referring(plain(cols, cols, ScaleRule::Gain, cols), 16, 4)
        }
    }

    /// A case for all tokens of a sequence, and one for those that are chosen where there are more.
    pub(super) fn each_restoration(&self, case: impl Fn(Restored) -> Case) -> Vec<Case> {
        let budget = Budget::default();
        let sinks = self.sinks();
        let all = Restored {
            rows: self.depth.min(TILE),
            listed: false,
            length: self.depth,
            sinks,
            blocks: self.stored_blocks(),
        };
        let chosen = Restored {
            rows: budget.tokens(),
            listed: true,
            ..all
        };
        let more = (chosen.rows < self.depth).then_some(chosen);
        [Some(all), more].into_iter().flatten().map(case).collect()
    }
}

/// A sequence in raw pages, in any order.
pub(super) struct Held {
    length: u32,
    pub pages: u32,
    /// The slot of each position.
    pub slots: Vec<u32>,
    pub entries: Vec<Entry>,
}

impl Held {
    pub fn new(rig: &mut Rig, length: u32) -> Self {
        let pages = length.div_ceil(PAGE);
        let order = rig.permutation(pages);
        let slot = |position: u32| Slot::new(order[(position / PAGE) as usize], position % PAGE).0;
        Held {
            length,
            pages,
            slots: (0..length).map(slot).collect(),
            entries: order.iter().map(|&page| raw(page)).collect(),
        }
    }

    /// Its last rows.
    pub fn rows(&self, rows: u32) -> Vec<RowDesc> {
        (self.length - rows..self.length)
            .map(|position| RowDesc {
                position,
                slot: self.slots[position as usize],
                ..RowDesc::default()
            })
            .collect()
    }

    /// All of it.
    pub fn view(&self) -> ViewDesc {
        ViewDesc {
            first: 0,
            length: self.length,
            last: self.length - 1,
            run: PAGE,
        }
    }

    /// What the first row chooses: half of the candidates where there are too few to leave any out otherwise.
    pub fn pick(&self) -> PickDesc {
        let pick = Budget::default().pick(0, self.length);
        PickDesc {
            keep: pick.keep.min(pick.candidates / 2),
            ..pick
        }
    }
}

/// Blocks that follow others of one sequence; their rows lie one after another, after its sinks.
pub(super) fn new_blocks(sinks: u32, old: u32, new: u32) -> Vec<BlockDesc> {
    (0..new)
        .map(|index| BlockDesc {
            source: sinks + index * BLOCK,
            index: old + index,
            sinks,
            ..BlockDesc::default()
        })
        .collect()
}

/// Entries that name blocks in order.
pub(super) fn entries_of_blocks(count: u32) -> Vec<Entry> {
    let blocks = 0..count;
    blocks
        .filter_map(|block| Entry::new(Tier::Latent, block))
        .collect()
}
