use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// A function between two matrices of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `f(v)[j] = v[j] * N(v[j])`, with `N` the distribution function of the normal distribution: GELU in its exact form.
    Gelu,
    /// `f(v)[j] = silu(v[j]) * v[c + j]` for `j` below `c`, half as many as `v` has: `silu(v) = v / (1 + exp(-v))`.
    SwiGlu,
}

impl Activation {
    /// Elements that go in for `cols` that come out; `None` where that is no `u32`.
    pub const fn inputs(self, cols: u32) -> Option<u32> {
        match self {
            Activation::Gelu => Some(cols),
            Activation::SwiGlu => cols.checked_mul(2),
        }
    }
}

/// `out[i] = f(base[i] + change[i]) - f(base[i])`: what a change of its input changes in a network's inner layer.
///
/// Networks of codecs code differences (DeltaKV, section 3): where `change[i]` is zero, `out[i]` is exactly zero, whatever `base` is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activate {
    /// What is added to the function's input, `f32[n, inputs]`.
    pub change: Tensor,
    /// The input before, `f32[n, inputs]`, or one row that serves all.
    pub base: Tensor,
    /// The function.
    pub activation: Activation,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Result, `f32[n, cols]`, with `inputs` as [`Activation::inputs`] says.
    pub out: Tensor,
}

impl Activate {
    /// The op's name.
    pub const NAME: &'static str = "activate";
    /// `erf` by a formula that is off by up to 1.5e-7, and a few roundings of each factor. Differences are taken where they are small, so that a
    /// large `base` costs nothing.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 1e-6,
        relative: 1e-5,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::read("change", self.change),
            Operand::read("base", self.base),
            Operand::read("count", self.count),
            Operand::write("out", self.out),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (n, cols) = (self.out.rows, self.out.cols);
        let wide = || check.fail("out", "at most 2^31 - 1 columns", cols);
        let inputs = self.activation.inputs(cols).ok_or_else(wide)?;
        check.shape("change", self.change, DType::F32, n, inputs)?;
        let rows = if self.base.rows == 1 { 1 } else { n };
        check.shape("base", self.base, DType::F32, rows, inputs)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("out", self.out, DType::F32, n, cols)
    }
}
