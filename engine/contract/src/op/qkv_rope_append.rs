use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::{KeySpace, RowDesc, RowShape};
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// Rows of the rotary table for the low part of a position: `position = high * ROPE_LOW + low`.
pub const ROPE_LOW: u32 = 256;

/// The first half of an attention layer: with `n = norm .* x[i] / rms(x[i])`,
///
/// - `q[i] = rope(q_norm(w_q * n + b_q))`,
/// - the slot of row `i` in `kv` takes `K = rope(k_norm(w_k * n + b_k))` and `V = w_v * n + b_v`.
///
/// `q_norm` and `k_norm` normalise each head on its own by its root mean square; absent, they do nothing. In
/// [`KeySpace::Unroped`], K is stored as `w_k * n + b_k`.
///
/// What enters the cache is rounded to f16, ties to even; beyond its range it becomes the largest finite f16 of its sign.
///
/// `rope` turns the pairs `(j, j + head_dim / 2)` of a head by the angle `position * frequency[j]`. The table holds cosines and sines for
/// `low` in `0..256` and then, in rows from 256 on, for `256 * high`; a kernel combines the two by the addition theorem. So no device
/// computes a sine of a large angle, which drivers do badly, and the table stays small at any context. Rows are
/// `[cos: head_dim / 2][sin: head_dim / 2]`; a model's attention factor (YaRN) is part of the low rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkvRopeAppend {
    /// The residual stream, `f32[n, width]`.
    pub x: Tensor,
    /// Norm weights, `f32[1, width]`.
    pub norm: Tensor,
    /// Added to mean squares before the root.
    pub epsilon: f32,
    /// Query weights `[heads * head_dim, width]`.
    pub w_q: Tensor,
    /// Key weights `[kv_heads * head_dim, width]`.
    pub w_k: Tensor,
    /// Value weights `[kv_heads * head_dim, width]`.
    pub w_v: Tensor,
    /// Query bias, `f32[1, heads * head_dim]`.
    pub b_q: Option<Tensor>,
    /// Key bias, `f32[1, kv_heads * head_dim]`.
    pub b_k: Option<Tensor>,
    /// Value bias, `f32[1, kv_heads * head_dim]`.
    pub b_v: Option<Tensor>,
    /// Query head norm, `f32[1, head_dim]`.
    pub q_norm: Option<Tensor>,
    /// Key head norm, `f32[1, head_dim]`.
    pub k_norm: Option<Tensor>,
    /// Rotary table, `f32[256 + r, head_dim]`, for positions below `256 * r`.
    pub rope: Tensor,
    /// Row descriptors, `u32[n, 8]`.
    pub rows: Tensor,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Shape of a cache row.
    pub shape: RowShape,
    /// The space in which keys are stored.
    pub space: KeySpace,
    /// Roped queries, `f32[n, heads * head_dim]`.
    pub q: Tensor,
    /// The layer's raw rows, `f16[slots, 2 * kv_heads * head_dim]`.
    pub kv: Tensor,
    /// Rows that take the same as in [`KeySpace::Unroped`] besides, at each row's `staged`, `f16[s, 2 * kv_heads * head_dim]`.
    pub staged: Option<Tensor>,
}

impl QkvRopeAppend {
    /// The op's name.
    pub const NAME: &'static str = "qkv_rope_append";
    /// A sum of products, then one rounding to f16 where it enters the cache: sums on either side of a rounding boundary end one f16 step
    /// (2^-10 of the element) apart.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 1e-6,
        relative: 1.0e-3,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        let mut operands = vec![
            Operand::read("x", self.x),
            Operand::read("norm", self.norm),
            Operand::read("w_q", self.w_q),
            Operand::read("w_k", self.w_k),
            Operand::read("w_v", self.w_v),
        ];
        let optional = [
            ("b_q", self.b_q),
            ("b_k", self.b_k),
            ("b_v", self.b_v),
            ("q_norm", self.q_norm),
            ("k_norm", self.k_norm),
        ];
        operands.extend(
            optional
                .iter()
                .filter_map(|(name, tensor)| tensor.map(|tensor| Operand::read(name, tensor))),
        );
        operands.extend([
            Operand::read("rope", self.rope),
            Operand::read("rows", self.rows),
            Operand::read("count", self.count),
            Operand::write("q", self.q),
            Operand::read_write("kv", self.kv),
        ]);
        operands.extend(
            self.staged
                .map(|staged| Operand::read_write("staged", staged)),
        );
        operands
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (n, width, dim) = (self.x.rows, self.x.cols, self.shape.head_dim);
        let (q_width, kv_width) = (self.q.cols, self.shape.width());
        check.holds(
            "shape",
            dim >= 2 && dim.is_multiple_of(2),
            "an even head_dim",
            dim,
        )?;
        check.holds(
            "shape",
            self.shape.kv_heads >= 1,
            "at least one key head",
            self.shape.kv_heads,
        )?;
        check.holds(
            "q",
            q_width.is_multiple_of(kv_width) && q_width > 0,
            "a whole number of query heads for each key head",
            self.q,
        )?;
        check.shape("x", self.x, DType::F32, n, width)?;
        check.shape("norm", self.norm, DType::F32, 1, width)?;
        check.weight("w_q", self.w_q, q_width, width)?;
        check.weight("w_k", self.w_k, kv_width, width)?;
        check.weight("w_v", self.w_v, kv_width, width)?;
        check.optional("b_q", self.b_q, DType::F32, 1, q_width)?;
        check.optional("b_k", self.b_k, DType::F32, 1, kv_width)?;
        check.optional("b_v", self.b_v, DType::F32, 1, kv_width)?;
        check.optional("q_norm", self.q_norm, DType::F32, 1, dim)?;
        check.optional("k_norm", self.k_norm, DType::F32, 1, dim)?;
        check.holds(
            "rope",
            self.rope.rows > ROPE_LOW,
            "more than 256 rows",
            self.rope,
        )?;
        check.shape("rope", self.rope, DType::F32, self.rope.rows, dim)?;
        check.shape("rows", self.rows, DType::U32, n, RowDesc::WORDS)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("q", self.q, DType::F32, n, q_width)?;
        check.shape("kv", self.kv, DType::F16, self.kv.rows, self.shape.cols())?;
        let staged = self.staged.map_or(0, |staged| staged.rows);
        check.optional("staged", self.staged, DType::F16, staged, self.shape.cols())
    }
}
