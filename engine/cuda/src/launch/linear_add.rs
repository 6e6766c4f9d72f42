//! `linear_add`: one matrix product that adds to its output. cuBLASLt adds zeros to rows that do not count.

use longwave_contract::BackendError;
use longwave_contract::op::LinearAdd;

use super::matmul::{self, Matmul, Product};
use super::{Argument, Context, Launch, MatmulKernel, one_row};

/// Whether the op's product takes its input as f16.
pub(super) fn takes_half(op: &LinearAdd, context: &Context) -> bool {
    let one = context.force.matmul.is_none() && one_row::serves(op.x.rows, op.a.cols);
    !one && kernel(op, context).is_some_and(|kernel| kernel != MatmulKernel::Row)
}

/// The kernel of the op's product, where it is not one row's.
pub(super) fn kernel(op: &LinearAdd, context: &Context) -> Option<MatmulKernel> {
    let (rows, library) = (op.x.rows, op.bias.is_none());
    matmul::chosen(LinearAdd::NAME, rows, &[op.weight], library, context).ok()
}

/// With `handed`, the input lies there as f16 already.
///
/// # Errors
/// As the matrix product.
pub(super) fn launch(
    op: &LinearAdd,
    handed: Option<Argument>,
    context: &Context,
) -> Result<Vec<Launch>, BackendError> {
    let (name, rows) = (LinearAdd::NAME, op.x.rows);
    if context.force.matmul.is_none() && one_row::serves(rows, op.a.cols) {
        let (weight, bias) = (op.weight, op.bias);
        let product = one_row::product(weight, op.a, None, bias, op.count, op.x, true, context)?;
        return Ok(vec![product.into()]);
    }
    let kernel = matmul::chosen(name, rows, &[op.weight], op.bias.is_none(), context)?;
    let (convert, a) = match handed {
        Some(a) => (None, a),
        None => matmul::factor(op.a, op.count, kernel)?,
    };
    let product = Product {
        weight: op.weight,
        bias: op.bias,
        y: op.x.into(),
    };
    let matmul = Matmul {
        products: &[product],
        a,
        count: op.count,
        rows,
        add: true,
        half: false,
        kernel,
    };
    let mut launches: Vec<Launch> = convert.into_iter().map(Launch::from).collect();
    launches.extend(matmul::launch(&matmul, context)?);
    Ok(launches)
}
