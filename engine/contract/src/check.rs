//! Host-side checks of an op's operands.

use crate::dtype::DType;
use crate::tensor::Tensor;

/// An op was recorded with an operand that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: operand `{operand}`: expected {expected}, found {found}")]
pub struct CheckError {
    /// The op's name.
    pub op: &'static str,
    /// The operand's name.
    pub operand: &'static str,
    /// What the op needs.
    pub expected: String,
    /// What was recorded.
    pub found: String,
}

/// Checks operands of one op in turn; the first that does not fit is the error.
pub(crate) struct Check(pub(crate) &'static str);

impl Check {
    pub(crate) fn fail(
        &self,
        operand: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> CheckError {
        CheckError {
            op: self.0,
            operand,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// The tensor has this type and exactly this shape.
    pub(crate) fn shape(
        &self,
        operand: &'static str,
        tensor: Tensor,
        dtype: DType,
        rows: u32,
        cols: u32,
    ) -> Result<(), CheckError> {
        if tensor.dtype != dtype || tensor.rows != rows || tensor.cols != cols {
            return Err(self.fail(operand, format_args!("{dtype}[{rows}, {cols}]"), tensor));
        }
        Ok(())
    }

    /// The same for an operand that may be absent.
    pub(crate) fn optional(
        &self,
        operand: &'static str,
        tensor: Option<Tensor>,
        dtype: DType,
        rows: u32,
        cols: u32,
    ) -> Result<(), CheckError> {
        tensor.map_or(Ok(()), |tensor| {
            self.shape(operand, tensor, dtype, rows, cols)
        })
    }

    /// The tensor is a weight matrix of this shape, in any type that weights have.
    pub(crate) fn weight(
        &self,
        operand: &'static str,
        tensor: Tensor,
        rows: u32,
        cols: u32,
    ) -> Result<(), CheckError> {
        let fits = DType::WEIGHTS.contains(&tensor.dtype)
            && tensor.rows == rows
            && tensor.cols == cols
            && cols.is_multiple_of(tensor.dtype.column_multiple());
        if !fits {
            let multiple = tensor.dtype.column_multiple();
            let expected =
                format!("a weight matrix [{rows}, {cols}] with columns in multiples of {multiple}");
            return Err(self.fail(operand, expected, tensor));
        }
        Ok(())
    }

    /// A condition on numbers of the op.
    pub(crate) fn holds(
        &self,
        operand: &'static str,
        condition: bool,
        expected: &str,
        found: impl ToString,
    ) -> Result<(), CheckError> {
        if condition {
            Ok(())
        } else {
            Err(self.fail(operand, expected, found))
        }
    }
}
