//! A sequence: its tokens, and the pages that hold their rows.

use longwave_contract::kv::{BLOCK, PAGE, Slot};

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
    /// Pages of the layers that compress: those of the sinks, then those of the tail.
    pub tail: Vec<u32>,
    /// Latent blocks, in order; the same numbers in every layer that compresses.
    pub blocks: Vec<u32>,
    /// What the history is known by: another number whenever something of it was dropped, rewritten or compressed, never that of another sequence.
    pub generation: u32,
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

    /// Tokens in blocks.
    pub fn compressed(&self) -> u32 {
        self.blocks.len() as u32 * BLOCK
    }

    /// The slot of a position in the layers that compress, with `sinks` tokens at the beginning that never are.
    pub fn tail_slot(&self, position: u32, sinks: u32) -> Option<Slot> {
        let (first, token) = match position.checked_sub(sinks) {
            None => (0, position),
            Some(after) => (sinks.div_ceil(PAGE), after.checked_sub(self.compressed())?),
        };
        let page = self.tail.get((first + token / PAGE) as usize)?;
        Some(Slot::new(*page, token % PAGE))
    }

    /// Pages that the layers that compress hold for `length` tokens: those of all sinks, and those of the tail.
    pub fn tail_pages(&self, length: u32, sinks: u32) -> u32 {
        let tail = length.saturating_sub(sinks + self.compressed());
        sinks.div_ceil(PAGE) + tail.div_ceil(PAGE)
    }

    /// The slot of a position, where a page holds it.
    pub fn slot(&self, position: u32) -> Option<Slot> {
        self.pages
            .get((position / PAGE) as usize)
            .map(|&page| Slot::new(page, position % PAGE))
    }
}
