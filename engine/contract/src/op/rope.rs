use super::unpack::check_rows;
use super::{Operand, ROPE_LOW, Tokens};
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::RowShape;
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// The last part of restoring tokens: keys and values as attention reads them.
///
/// Row `first + i` of `kv`, or the slot that [`Tokens::Missing`] names, takes `K = rope(k_norm(k))` at the token's position and `V = v`, for `x[i] = [k | v]`, in f16 as
/// [`super::QkvRopeAppend`] stores them. Rows are numbered, and positions found, as [`super::Unpack`] says; rows beyond what a sequence restores are
/// left as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Restored rows, `f32[n, 2 * kv_heads * head_dim]`.
    pub x: Tensor,
    /// What is restored.
    pub tokens: Tokens,
    /// Where tokens lie, `u32[p, 8]`.
    pub stores: Tensor,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Rows from one sequence to the next.
    pub pitch: u32,
    /// The first row.
    pub first: u32,
    /// Key head norm, `f32[1, head_dim]`.
    pub k_norm: Option<Tensor>,
    /// Added to mean squares before the root.
    pub epsilon: f32,
    /// Rotary table, `f32[256 + r, head_dim]`, for positions below `256 * r`.
    pub rope: Tensor,
    /// Shape of a row.
    pub shape: RowShape,
    /// Scratch rows, `f16[slots, 2 * kv_heads * head_dim]`.
    pub kv: Tensor,
}

impl Rope {
    /// The op's name.
    pub const NAME: &'static str = "rope";
    /// One rounding to f16, after sums on either side of its boundary.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 1e-6,
        relative: 1.0e-3,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        let mut operands = vec![Operand::read("x", self.x)];
        let tokens = self.tokens.tensor();
        operands.extend(tokens.map(|tokens| Operand::read("tokens", tokens)));
        operands.extend([
            Operand::read("stores", self.stores),
            Operand::read("count", self.count),
        ]);
        operands.extend(self.k_norm.map(|norm| Operand::read("k_norm", norm)));
        operands.extend([
            Operand::read("rope", self.rope),
            Operand::read_write("kv", self.kv),
        ]);
        operands
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (dim, cols) = (self.shape.head_dim, self.shape.cols());
        let even = dim >= 2 && dim.is_multiple_of(2) && self.shape.kv_heads > 0;
        check.holds("shape", even, "heads of an even head_dim", dim)?;
        check.holds("pitch", self.pitch > 0, "at least one row", self.pitch)?;
        check_rows(&check, self.tokens, self.stores, self.count)?;
        check.shape("x", self.x, DType::F32, self.x.rows, cols)?;
        check.optional("k_norm", self.k_norm, DType::F32, 1, dim)?;
        let rows = self.rope.rows;
        check.holds("rope", rows > ROPE_LOW, "more than 256 rows", self.rope)?;
        check.shape("rope", self.rope, DType::F32, rows, dim)?;
        let end = u64::from(self.first) + u64::from(self.x.rows);
        let fits = end
            <= match self.tokens {
                Tokens::Missing(misses) => u64::from(misses.rows),
                _ => u64::from(self.kv.rows),
            };
        check.holds("kv", fits, "a slot, or a miss, for every row", self.kv)?;
        check.shape("kv", self.kv, DType::F16, self.kv.rows, cols)
    }
}
