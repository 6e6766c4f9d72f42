use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::{RowDesc, RowShape};
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// `out[i, h] = sum_j softmax_j(scale * q[i, h] . K[j, g]) V[j, g]` over the tokens `j` that row `i`'s view shows at its position, with
/// `g = h / (heads / kv_heads)` ([`crate::kv::ViewDesc::visible`]). A row that sees nothing gives zeros.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// Roped queries, `f32[n, heads * head_dim]`.
    pub q: Tensor,
    /// The layer's raw rows, roped, `f16[slots, 2 * kv_heads * head_dim]`.
    pub kv: Tensor,
    /// Row descriptors, `u32[n, 8]`.
    pub rows: Tensor,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Views, `u32[v, 4]`.
    pub views: Tensor,
    /// Entries of all views, `u32[1, e]`; every entry that a view names is of the raw tier and lies in `kv`.
    pub entries: Tensor,
    /// Shape of a cache row.
    pub shape: RowShape,
    /// Multiplies scores before the softmax, in most models `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// The most tokens that any row sees: what a kernel sizes its grid by.
    pub longest: u32,
    /// Result, `f32[n, heads * head_dim]`.
    pub out: Tensor,
}

impl Attend {
    /// The op's name.
    pub const NAME: &'static str = "attend";
    /// Weighted means of values: scores carry the rounding of a dot product, which the exponential turns into a relative error.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 1e-6,
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
            Operand::read("count", self.count),
            Operand::read("views", self.views),
            Operand::read("entries", self.entries),
            Operand::write("out", self.out),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (n, width) = (self.q.rows, self.q.cols);
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
        check.holds(
            "longest",
            self.longest > 0,
            "at least one token",
            self.longest,
        )?;
        check.shape("q", self.q, DType::F32, n, width)?;
        check.shape("kv", self.kv, DType::F16, self.kv.rows, self.shape.cols())?;
        check.shape("rows", self.rows, DType::U32, n, RowDesc::WORDS)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("views", self.views, DType::U32, self.views.rows, 4)?;
        check.shape("entries", self.entries, DType::U32, 1, self.entries.cols)?;
        check.shape("out", self.out, DType::F32, n, width)
    }
}
