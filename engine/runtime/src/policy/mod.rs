//! Policies: what each query may read, and what is kept.
//!
//! A policy holds no storage and runs nothing. It says what each layer does ([`Role`]), which rows the queries of a step read (a view),
//! and what becomes of old tokens after a step ([`Retention`]). One file per policy.

mod deltakv;
mod dense;
mod omnikv;

use std::ops::Range;
use std::sync::Arc;

pub use deltakv::DeltaKv;
pub use dense::Dense;
use longwave_contract::kv::{Entry, PickDesc, ViewDesc};
pub use omnikv::OmniKv;

use crate::codec::Codec;
use crate::kv::Sequence;

/// What a layer's attention does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Reads the rows that the policy's host-made view names.
    Dense,
    /// As `Dense`; what its heads attend to decides what the layers that follow read.
    Observe,
    /// Reads what the last observer chose, in decode steps; prompts as `Dense`.
    Follow,
}

/// How many tokens of which kind a following layer reads in a decode step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tokens at the beginning that are always read.
    pub sink: u32,
    /// Tokens at the end, the current one included, that are always read.
    pub recent: u32,
    /// Tokens between them that are chosen; all of them where they are fewer.
    pub keep: u32,
}

impl Default for Budget {
    /// As the paper's runs: 8 sinks, 128 recent tokens, 2,048 chosen.
    fn default() -> Self {
        Budget {
            sink: 8,
            recent: 128,
            keep: 2048,
        }
    }
}

impl Budget {
    /// The most tokens that a following layer reads.
    pub const fn tokens(&self) -> u32 {
        self.sink
            .saturating_add(self.recent)
            .saturating_add(self.keep)
    }

    /// Restored rows that following layers keep for a sequence from one decode step to the next, in a cache of `context` tokens: what is read,
    /// and as many chosen tokens again; 0 where that is more than a third of the context, and would undo what compression saves.
    pub const fn resident_rows(&self, context: u32) -> u32 {
        let rows = self.tokens().saturating_add(self.keep);
        if rows > context / 3 { 0 } else { rows }
    }

    /// The fewest that are of use, where [`Budget::resident_rows`] find no room: what is read, so that only what was read one step ago stays.
    pub const fn least_resident_rows(&self, context: u32) -> u32 {
        match self.resident_rows(context) {
            0 => 0,
            _ => self.tokens(),
        }
    }

    /// Rows that a decode step restores for a sequence at most, where every layer that compresses reads what others choose.
    pub fn restored_rows(&self, context: u32) -> u32 {
        // Where all tokens are read, room for as many as a recording is made for.
        let most = self.tokens().checked_next_power_of_two();
        most.unwrap_or(u32::MAX).max(128).min(context)
    }

    /// What is chosen for row `row` of a step, which sees `visible` tokens.
    pub const fn pick(&self, row: u32, visible: u32) -> PickDesc {
        let first = if self.sink < visible {
            self.sink
        } else {
            visible
        };
        PickDesc {
            row,
            first,
            candidates: (visible - first).saturating_sub(self.recent),
            keep: self.keep,
        }
    }
}

/// Why a policy cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Nothing observes for the first layers.
    #[error("full: layer 0 must be a full layer")]
    FirstLayer,
    /// A layer beyond the model's.
    #[error("full: layer {layer} does not exist in a model of {layers} layers")]
    NoSuchLayer {
        /// The layer.
        layer: u32,
        /// How many there are.
        layers: u32,
    },
    /// A layer that reads what others choose keeps nothing to restore.
    #[error("layer {layer} is no full layer and has no codec")]
    NoCodec {
        /// The layer.
        layer: u32,
    },
}

/// What becomes of a sequence's old tokens after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retention {
    /// They stay as they are.
    KeepAll,
    /// Positions that become blocks: whole blocks, from the first position that is in none.
    Compress(Range<u32>),
}

/// Decides what queries read and what is kept.
pub trait Policy: Send + Sync {
    /// The name by which the command line calls it.
    fn name(&self) -> &str;

    /// What a layer does.
    fn role(&self, layer: u32) -> Role;

    /// What following layers read in a decode step; `None` where no layer follows.
    fn budget(&self) -> Option<Budget> {
        None
    }

    /// What is chosen for row `row` of a step, the next token of a sequence; only asked where there is a budget.
    fn pick(&self, row: u32, sequence: &Sequence) -> PickDesc {
        let budget = self.budget().unwrap_or_default();
        budget.pick(row, sequence.len() + 1)
    }

    /// What becomes of a sequence's tokens once `length` of them are in the cache, `compressed` of them in blocks.
    fn retention(&self, length: u32, compressed: u32) -> Retention {
        let _ = (length, compressed);
        Retention::KeepAll
    }

    /// How a layer's old tokens are compressed; `None` where they stay as they are.
    fn codec(&self, layer: u32) -> Option<&Arc<dyn Codec>> {
        let _ = layer;
        None
    }

    /// Tokens at the beginning that are never compressed.
    fn sinks(&self) -> u32 {
        0
    }

    /// The most tokens at the end that are not compressed, once a step is over.
    fn tail(&self) -> u32 {
        0
    }

    /// Appends the entries by which rows up to position `last` of a sequence read its cache, and describes them. The sequence's pages
    /// cover `last`.
    fn view(&self, sequence: &Sequence, last: u32, entries: &mut Vec<Entry>) -> ViewDesc;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stay_where_they_are_a_third_of_the_context_at_most() {
        let budget = Budget::default();
        let rows = budget.tokens() + 2048;
        assert_eq!(budget.resident_rows(3 * rows), rows);
        assert_eq!(budget.resident_rows(3 * rows - 1), 0);
        let all = Budget {
            keep: u32::MAX,
            ..budget
        };
        assert_eq!(all.resident_rows(u32::MAX), 0);
        assert_eq!(budget.least_resident_rows(3 * rows), budget.tokens());
        assert_eq!(budget.least_resident_rows(3 * rows - 1), 0);
    }

    #[test]
    fn sinks_and_recent_tokens_are_no_candidates() {
        let budget = Budget {
            sink: 8,
            recent: 128,
            keep: 50,
        };
        let candidates = |visible| budget.pick(0, visible).candidates;
        assert_eq!([1, 8, 136, 137, 1136].map(candidates), [0, 0, 0, 1, 1000]);
        assert_eq!(budget.pick(3, 5).first, 5);
        assert_eq!(budget.pick(0, 1136).length(1136), budget.tokens());
    }
}
