//! `linear`: one matrix product.

use longwave_contract::BackendError;
use longwave_contract::op::Linear;

use super::matmul::{self, Matmul};
use super::{Context, Dispatch};

/// # Errors
/// As the matrix product, and for operands that exceed a binding.
pub(super) fn launch(op: &Linear, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let input = matmul::input(op.a.rows, &[op.weight], context);
    let (convert, a) = matmul::factor(Linear::NAME, op.a, input, op.count, context)?;
    let matmul = Matmul {
        op: Linear::NAME,
        weight: op.weight,
        a,
        input,
        bias: op.bias,
        count: op.count,
        y: context.whole(Linear::NAME, "out", op.out)?,
        rows: op.out.rows,
        add: false,
    };
    let mut dispatches = Vec::from_iter(convert);
    dispatches.extend(matmul::launch(&matmul, context)?);
    Ok(dispatches)
}
