use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// `out[i] = silu(w_gate * n) .* (w_up * n)` with `n = norm .* x[i] / rms(x[i])`: the first half of a gated feed-forward layer.
///
/// `rms(x) = sqrt(mean(x^2) + epsilon)` and `silu(v) = v / (1 + exp(-v))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateUpSilu {
    /// The residual stream, `f32[n, width]`.
    pub x: Tensor,
    /// Norm weights, `f32[1, width]`.
    pub norm: Tensor,
    /// Added to the mean square before the root.
    pub epsilon: f32,
    /// Gate weights `[inner, width]`.
    pub w_gate: Tensor,
    /// Up weights `[inner, width]`.
    pub w_up: Tensor,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Result, `f32[n, inner]`.
    pub out: Tensor,
}

impl GateUpSilu {
    /// The op's name.
    pub const NAME: &'static str = "gate_up_silu";
    /// Two sums of products, multiplied.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 1e-6,
        relative: 1e-4,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::read("x", self.x),
            Operand::read("norm", self.norm),
            Operand::read("w_gate", self.w_gate),
            Operand::read("w_up", self.w_up),
            Operand::read("count", self.count),
            Operand::write("out", self.out),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (n, width, inner) = (self.x.rows, self.x.cols, self.out.cols);
        check.shape("x", self.x, DType::F32, n, width)?;
        check.shape("norm", self.norm, DType::F32, 1, width)?;
        check.weight("w_gate", self.w_gate, inner, width)?;
        check.weight("w_up", self.w_up, inner, width)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("out", self.out, DType::F32, n, inner)
    }
}
