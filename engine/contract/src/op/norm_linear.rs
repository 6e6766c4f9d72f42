use super::{MATMUL_TOLERANCE, Operand};
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// `out[i] = weight * n` with `n = norm .* x[select[i]] / rms(x[select[i]])`: logits of the selected rows.
///
/// `count` counts the selected rows, not the rows of `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormLinear {
    /// The residual stream, `f32[n, width]`.
    pub x: Tensor,
    /// Which rows of `x` to take, `u32[1, m]`.
    pub select: Tensor,
    /// Norm weights, `f32[1, width]`.
    pub norm: Tensor,
    /// Added to the mean square before the root.
    pub epsilon: f32,
    /// Weight matrix `[outputs, width]`.
    pub weight: Tensor,
    /// How many selected rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Result, `f32[m, outputs]`.
    pub out: Tensor,
}

impl NormLinear {
    /// The op's name.
    pub const NAME: &'static str = "norm_linear";
    /// A sum of `width` products.
    pub const TOLERANCE: Tolerance = MATMUL_TOLERANCE;

    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::read("x", self.x),
            Operand::read("select", self.select),
            Operand::read("norm", self.norm),
            Operand::read("weight", self.weight),
            Operand::read("count", self.count),
            Operand::write("out", self.out),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (width, m, outputs) = (self.x.cols, self.out.rows, self.out.cols);
        check.shape("x", self.x, DType::F32, self.x.rows, width)?;
        check.shape("select", self.select, DType::U32, 1, m)?;
        check.shape("norm", self.norm, DType::F32, 1, width)?;
        check.weight("weight", self.weight, outputs, width)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("out", self.out, DType::F32, m, outputs)
    }
}
