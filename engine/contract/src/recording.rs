//! Recordings: what a model does in a step, as data.

use crate::check::CheckError;
use crate::op::Op;
use crate::tensor::Tensor;

/// A list of ops, checked as they are pushed. A backend prepares it once and runs it many times; what changes between runs lies in the
/// buffers that it names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    label: String,
    ops: Vec<Op>,
}

impl Recording {
    /// An empty recording. The label is for profiles and error messages.
    pub fn new(label: impl Into<String>) -> Self {
        Recording {
            label: label.into(),
            ops: Vec::new(),
        }
    }

    /// What the recording is called.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The ops in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Appends an op.
    ///
    /// # Errors
    /// When a shape or type does not fit, a tensor is empty or does not start at a multiple of [`Tensor::ALIGN`], or a buffer that the op writes is also
    /// another operand of it: devices forbid that, and the CPU relies on its absence.
    pub fn push(&mut self, op: impl Into<Op>) -> Result<(), CheckError> {
        let op = op.into();
        op.check()?;
        let operands = op.operands();
        let fail = |operand: &'static str, expected: &str, found: String| CheckError {
            op: op.name(),
            operand,
            expected: expected.into(),
            found,
        };
        for (i, operand) in operands.iter().enumerate() {
            let tensor = operand.tensor;
            if tensor.rows == 0 || tensor.cols == 0 {
                return Err(fail(
                    operand.name,
                    "at least one element",
                    tensor.to_string(),
                ));
            }
            if !tensor.offset.is_multiple_of(Tensor::ALIGN) {
                return Err(fail(
                    operand.name,
                    "an offset that is a multiple of 256",
                    tensor.offset.to_string(),
                ));
            }
            let clash = operands.iter().enumerate().find(|(j, other)| {
                *j != i && operand.access.writes() && other.tensor.buffer == tensor.buffer
            });
            if let Some((_, other)) = clash {
                return Err(fail(
                    operand.name,
                    "a written buffer to be no other operand",
                    format!("the buffer of `{}`", other.name),
                ));
            }
        }
        self.ops.push(op);
        Ok(())
    }
}
