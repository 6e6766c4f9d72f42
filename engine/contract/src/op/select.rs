use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::{PickDesc, RowDesc};
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// What [`Select`] gives of a token that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// The entry that names its slot.
    Entries,
    /// Its place in the view: its position, where the view names all tokens of a sequence.
    Tokens,
}

/// `out[p]` = the entries (or places) of the tokens that pick `p` reads, in position order: those before the candidates, the `keep` candidates with the
/// highest scores (of equal ones the earlier), and those after them ([`PickDesc`]). The rest of the row becomes zero.
///
/// Each entry names one raw slot, so a view of the result has a `run` of 1. How many there are is known on the host
/// ([`PickDesc::length`]); which, only on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Select {
    /// Scores of the candidates, none negative, `f32[p, c]`.
    pub scores: Tensor,
    /// Row descriptors, `u32[n, 8]`.
    pub rows: Tensor,
    /// Views, `u32[v, 4]`.
    pub views: Tensor,
    /// Entries of all views, `u32[1, e]`.
    pub entries: Tensor,
    /// Picks, `u32[p, 4]`.
    pub picks: Tensor,
    /// How many picks count, `u32[1, 1]`.
    pub count: Tensor,
    /// What is given of each token.
    pub yields: Selected,
    /// For measurements on weights that choose arbitrarily: thousandths of a choice that are in the next one too, instead of the choice by
    /// `scores`, which are read all the same. See [`planted`].
    pub overlap: Option<u32>,
    /// Result, `u32[p, m]` for at most `m` tokens.
    pub out: Tensor,
}

impl Select {
    /// The op's name.
    pub const NAME: &'static str = "select";
    /// The same scores give the same tokens.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 0.0,
        relative: 0.0,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::read("scores", self.scores),
            Operand::read("rows", self.rows),
            Operand::read("views", self.views),
            Operand::read("entries", self.entries),
            Operand::read("picks", self.picks),
            Operand::read("count", self.count),
            Operand::write("out", self.out),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let p = self.picks.rows;
        check.shape("scores", self.scores, DType::F32, p, self.scores.cols)?;
        check.shape(
            "rows",
            self.rows,
            DType::U32,
            self.rows.rows,
            RowDesc::WORDS,
        )?;
        check.shape("views", self.views, DType::U32, self.views.rows, 4)?;
        check.shape("entries", self.entries, DType::U32, 1, self.entries.cols)?;
        check.shape("picks", self.picks, DType::U32, p, PickDesc::WORDS)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("out", self.out, DType::U32, p, self.out.cols)
    }
}

/// What stands for the score of candidate `at` of `candidates`, of which `keep` stay, where an overlap of `overlap` thousandths is planted
/// and the row is at `position`.
///
/// Every candidate is drawn anew from time to time, on average after as many steps as leave `overlap` of what was chosen in place; what is
/// drawn is the same on all backends. The order of the results is that of scores.
pub const fn planted(overlap: u32, candidates: u32, keep: u32, position: u32, at: u32) -> u32 {
    let left_out = candidates.saturating_sub(keep);
    let divisor = if left_out == 0 { 1 } else { left_out };
    let overlap = if overlap > 1000 { 1000 } else { overlap };
    // In 4096ths: how much nearer each step brings a candidate to its next draw.
    let rate = (4096 * (1000 - overlap) / 1000).wrapping_mul(candidates) / divisor;
    let rate = if rate > 4096 { 4096 } else { rate };
    let phase = scattered(at) & 4095;
    let draw = position.wrapping_mul(rate).wrapping_add(phase) >> 12;
    // Below the bits of infinity.
    scattered(at ^ scattered(draw.wrapping_add(0x9e37_79b9))) >> 2
}

/// A permutation of the numbers without a pattern.
const fn scattered(value: u32) -> u32 {
    let mut value = (value ^ (value >> 16)).wrapping_mul(0x7feb_352d);
    value = (value ^ (value >> 15)).wrapping_mul(0x846c_a68b);
    value ^ (value >> 16)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn choices_overlap_as_planted() {
        for (overlap, candidates, keep) in [(700, 16_000, 2048), (0, 4000, 100), (950, 3000, 2048)]
        {
            let chosen = |position| -> BTreeSet<u32> {
                let key = |at: &u32| planted(overlap, candidates, keep, position, *at);
                let mut order: Vec<u32> = (0..candidates).collect();
                order.sort_by_key(|at| (std::cmp::Reverse(key(at)), *at));
                order.into_iter().take(keep as usize).collect()
            };
            let mut shared = 0;
            let mut before = chosen(5000);
            for position in 5001..5011 {
                let now = chosen(position);
                shared += before.intersection(&now).count();
                before = now;
            }
            let share = shared as f64 / (10.0 * f64::from(keep));
            let expected =
                (f64::from(overlap) / 1000.0).max(f64::from(keep) / f64::from(candidates));
            assert!((share - expected).abs() < 0.03, "{overlap}: {share}");
        }
    }
}
