use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::StoreDesc;
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// Words of a row of a map of resident tokens before its slots: a generation, a clock, and two that are zero.
pub const RESIDENT_HEAD: u32 = 4;

/// A slot that holds no token.
pub const NO_TOKEN: u32 = u32::MAX;

/// Finds the chosen tokens whose restored rows are still there from earlier steps, and gives the others slots.
///
/// Row `lane` of `resident` says what lies in the `s` slots of a lane, of which it has `4 + 2 * s` words: the generation and the clock of
/// [`RESIDENT_HEAD`], the token of each slot or [`NO_TOKEN`], and the clock's reading when each was last used. For each store:
///
/// 1. Of another generation than the store's, or with a clock that has run out, nothing is resident, and the clock is at 0. Nor are tokens from the store's last position
///    on: that one's row is new in every step.
/// 2. The clock goes on by one. A chosen token that is resident keeps its slot.
/// 3. The `m` others take the `m` slots that no chosen token has and that were used longest ago (of equal ones the lower, empty ones first),
///    the first token the lowest slot.
/// 4. `out` gets the entry of each chosen token's slot, `lane * s + slot` in the scratch tier, and zeros after the last.
///
/// `misses` names what has to be restored, over all stores in order: store, position, slot among those of all lanes, and zero. Tile `t` of
/// `counts` says how many of its rows from `t * tile` on count, `tile` at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reside {
    /// Positions that were chosen, ascending, `u32[p, m]`; a store's `chosen` says how many.
    pub tokens: Tensor,
    /// Where tokens lie, `u32[p, 8]`; no two that count have one lane.
    pub stores: Tensor,
    /// How many stores count, `u32[1, 1]`.
    pub count: Tensor,
    /// What is resident, `u32[lanes, 4 + 2 * s]`.
    pub resident: Tensor,
    /// Entries, `u32[p, m]`.
    pub out: Tensor,
    /// What has to be restored, `u32[n, 4]`.
    pub misses: Tensor,
    /// How many rows of each tile count, `u32[tiles, c]`, in the first column.
    pub counts: Tensor,
    /// Rows of a tile.
    pub tile: u32,
}

impl Reside {
    /// The op's name.
    pub const NAME: &'static str = "reside";
    /// Numbers of tokens and slots.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 0.0,
        relative: 0.0,
    };

    /// Slots of a lane.
    pub const fn slots(&self) -> u32 {
        self.resident.cols.saturating_sub(RESIDENT_HEAD) / 2
    }

    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::read("tokens", self.tokens),
            Operand::read("stores", self.stores),
            Operand::read("count", self.count),
            Operand::read_write("resident", self.resident),
            Operand::write("out", self.out),
            Operand::write("misses", self.misses),
            Operand::write("counts", self.counts),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (p, m) = (self.stores.rows, self.tokens.cols);
        check.shape("tokens", self.tokens, DType::U32, p, m)?;
        check.shape("stores", self.stores, DType::U32, p, StoreDesc::WORDS)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        let (lanes, words) = (self.resident.rows, RESIDENT_HEAD + 2 * self.slots());
        check.shape("resident", self.resident, DType::U32, lanes, words)?;
        let named = u64::from(lanes) * u64::from(self.slots()) <= 1 << crate::kv::Entry::INDEX_BITS;
        check.holds("resident", named, "slots that entries can name", lanes)?;
        check.shape("out", self.out, DType::U32, p, m)?;
        check.shape("misses", self.misses, DType::U32, self.misses.rows, 4)?;
        let (tiles, cols) = (self.counts.rows, self.counts.cols);
        check.shape("counts", self.counts, DType::U32, tiles, cols)?;
        let covered = u64::from(tiles) * u64::from(self.tile) >= u64::from(self.misses.rows);
        check.holds("tile", covered, "tiles that cover the misses", self.tile)
    }
}
