//! `linear_add`: one matrix product that adds to its output.

use longwave_contract::BackendError;
use longwave_contract::op::LinearAdd;

use super::matmul::{self, Matmul};
use super::{Context, Dispatch};

/// # Errors
/// As the matrix product, and for operands that exceed a binding.
pub(super) fn launch(op: &LinearAdd, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let input = matmul::input(op.a.rows, &[op.weight], context);
    let (convert, a) = matmul::factor(LinearAdd::NAME, op.a, input, op.count, context)?;
    let matmul = Matmul {
        op: LinearAdd::NAME,
        weight: op.weight,
        a,
        input,
        bias: op.bias,
        count: op.count,
        y: context.whole(LinearAdd::NAME, "x", op.x)?,
        rows: op.x.rows,
        add: true,
    };
    let mut dispatches = Vec::from_iter(convert);
    dispatches.extend(matmul::launch(&matmul, context)?);
    Ok(dispatches)
}
