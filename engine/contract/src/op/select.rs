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
