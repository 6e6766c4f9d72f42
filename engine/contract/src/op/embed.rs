use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::RowDesc;
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// `out[i] = table[rows[i].token]`: the embedding of each row's token. A token beyond the table gives zeros.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embed {
    /// Embeddings, a weight matrix `[vocabulary, width]`.
    pub table: Tensor,
    /// Row descriptors, `u32[n, 8]`.
    pub rows: Tensor,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Result, `f32[n, width]`.
    pub out: Tensor,
}

impl Embed {
    /// The op's name.
    pub const NAME: &'static str = "embed";
    /// One multiply-add an element, fused or not.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 0.0,
        relative: 1e-6,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::read("table", self.table),
            Operand::read("rows", self.rows),
            Operand::read("count", self.count),
            Operand::write("out", self.out),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let n = self.rows.rows;
        check.shape("rows", self.rows, DType::U32, n, RowDesc::WORDS)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.weight("table", self.table, self.table.rows, self.table.cols)?;
        check.shape("out", self.out, DType::F32, n, self.table.cols)
    }
}
