//! A sequence: its tokens, and the pages that hold their rows.

use longwave_contract::kv::{PAGE, Slot};

/// Names a sequence of an engine. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u32);

/// What one sequence holds.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// Tokens whose rows are in the cache, by position.
    pub tokens: Vec<u32>,
    /// Pages in position order; the last may be partly filled, and more may be held than are filled.
    pub pages: Vec<u32>,
}

impl Sequence {
    /// Tokens in the cache.
    pub fn len(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Whether nothing is in the cache.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Pages that must be added before `length` tokens fit.
    pub fn missing_pages(&self, length: u32) -> u32 {
        length
            .div_ceil(PAGE)
            .saturating_sub(self.pages.len() as u32)
    }

    /// The slot of a position, where a page holds it.
    pub fn slot(&self, position: u32) -> Option<Slot> {
        self.pages
            .get((position / PAGE) as usize)
            .map(|&page| Slot::new(page, position % PAGE))
    }
}
