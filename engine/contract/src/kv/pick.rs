//! Picks: which tokens of a view are ranked, and how many stay.

use bytemuck::{Pod, Zeroable};

/// One selection of a step, as it lies in the picks buffer: four `u32` words.
///
/// Of the tokens that a row sees, the first `first` (the sinks) and all after the candidates (the tail) are always read; of the
/// `candidates` between them, the `keep` with the highest scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PickDesc {
    /// The row of the step whose query ranks.
    pub row: u32,
    /// Tokens before the candidates.
    pub first: u32,
    /// Tokens that are ranked.
    pub candidates: u32,
    /// Candidates that stay; all of them where they are fewer.
    pub keep: u32,
}

impl PickDesc {
    /// Words of a descriptor: the columns of a picks tensor.
    pub const WORDS: u32 = 4;

    /// How many of `visible` tokens stay.
    pub const fn length(&self, visible: u32) -> u32 {
        let dropped = self.candidates.saturating_sub(self.keep);
        visible.saturating_sub(dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_beyond_the_budget_are_dropped() {
        let pick = PickDesc {
            row: 0,
            first: 8,
            candidates: 1000,
            keep: 100,
        };
        assert_eq!(pick.length(1136), 236);
        assert_eq!(PickDesc { keep: 2000, ..pick }.length(1136), 1136);
    }
}
