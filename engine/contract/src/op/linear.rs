use super::{MATMUL_TOLERANCE, Operand};
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// `out[i] = weight * a[i] + bias`: a codec's matrix applied to rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Input, `f32[n, k]`.
    pub a: Tensor,
    /// Weight matrix `[width, k]`.
    pub weight: Tensor,
    /// Bias, `f32[1, width]`.
    pub bias: Option<Tensor>,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Result, `f32[n, width]`.
    pub out: Tensor,
}

impl Linear {
    /// The op's name.
    pub const NAME: &'static str = "linear";
    /// A sum of `k` products.
    pub const TOLERANCE: Tolerance = MATMUL_TOLERANCE;

    pub(super) fn operands(&self) -> Vec<Operand> {
        let mut operands = vec![
            Operand::read("a", self.a),
            Operand::read("weight", self.weight),
        ];
        operands.extend(self.bias.map(|bias| Operand::read("bias", bias)));
        operands.push(Operand::read("count", self.count));
        operands.push(Operand::write("out", self.out));
        operands
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (n, width, k) = (self.out.rows, self.out.cols, self.a.cols);
        check.shape("a", self.a, DType::F32, n, k)?;
        check.weight("weight", self.weight, width, k)?;
        check.optional("bias", self.bias, DType::F32, 1, width)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("out", self.out, DType::F32, n, width)
    }
}
