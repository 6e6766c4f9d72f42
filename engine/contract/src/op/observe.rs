use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::{PickDesc, RowDesc, RowShape};
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// `scores[p, j] = max_h softmax_j(scale * q[i, h] . K[first + j, g])` over the candidates `j` of pick `p`, whose row is `i`, with
/// `g = h / (heads / kv_heads)`: how much any head of an observer layer attends to each candidate, sinks and tail left out of the sum
/// (OmniKV's selection, which DeltaKV, arXiv 2602.08005, takes over). Columns beyond the candidates become zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observe {
    /// Roped queries, `f32[n, heads * head_dim]`.
    pub q: Tensor,
    /// The layer's raw rows, roped, `f16[slots, 2 * kv_heads * head_dim]`.
    pub kv: Tensor,
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
    /// Shape of a cache row.
    pub shape: RowShape,
    /// Multiplies scores before the softmax.
    pub scale: f32,
    /// Result, `f32[p, c]` for at most `c` candidates.
    pub scores: Tensor,
}

impl Observe {
    /// The op's name.
    pub const NAME: &'static str = "observe";
    /// As attention: the rounding of a dot product, which the exponential turns into a relative error.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 1e-7,
        relative: 1e-4,
    };

    /// Query heads.
    pub const fn heads(&self) -> u32 {
        self.q.cols / self.shape.head_dim
    }

    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::read("q", self.q),
            Operand::read("kv", self.kv),
            Operand::read("rows", self.rows),
            Operand::read("views", self.views),
            Operand::read("entries", self.entries),
            Operand::read("picks", self.picks),
            Operand::read("count", self.count),
            Operand::write("scores", self.scores),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (n, width, p) = (self.q.rows, self.q.cols, self.picks.rows);
        let kv_width = self.shape.width();
        check.holds("shape", kv_width > 0, "at least one key head", kv_width)?;
        check.holds(
            "q",
            width.is_multiple_of(kv_width) && width > 0,
            "a whole number of query heads for each key head",
            self.q,
        )?;
        check.holds(
            "scale",
            self.scale.is_finite(),
            "a finite number",
            self.scale,
        )?;
        check.shape("q", self.q, DType::F32, n, width)?;
        check.shape("kv", self.kv, DType::F16, self.kv.rows, self.shape.cols())?;
        check.shape("rows", self.rows, DType::U32, n, RowDesc::WORDS)?;
        check.shape("views", self.views, DType::U32, self.views.rows, 4)?;
        check.shape("entries", self.entries, DType::U32, 1, self.entries.cols)?;
        check.shape("picks", self.picks, DType::U32, p, PickDesc::WORDS)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("scores", self.scores, DType::F32, p, self.scores.cols)
    }
}
