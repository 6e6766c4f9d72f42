//! `linear`: one matrix product.

use longwave_contract::BackendError;
use longwave_contract::op::Linear;

use super::matmul::{self, Matmul, Product};
use super::{Context, Launch, one_row};

/// # Errors
/// As the matrix product.
pub(super) fn launch(op: &Linear, context: &Context) -> Result<Vec<Launch>, BackendError> {
    let (name, rows) = (Linear::NAME, op.out.rows);
    if context.force.matmul.is_none() && one_row::serves(rows, op.a.cols) {
        let (weight, bias) = (op.weight, op.bias);
        let product = one_row::product(weight, op.a, None, bias, op.count, op.out, false, context)?;
        return Ok(vec![product.into()]);
    }
    let kernel = matmul::chosen(name, rows, &[op.weight], false, context)?;
    let (convert, a) = matmul::factor(op.a, op.count, kernel)?;
    let product = Product {
        weight: op.weight,
        bias: op.bias,
        y: op.out.into(),
    };
    let matmul = Matmul {
        products: &[product],
        a,
        count: op.count,
        rows,
        add: false,
        half: false,
        kernel,
    };
    let mut launches: Vec<Launch> = convert.into_iter().map(Launch::from).collect();
    launches.extend(matmul::launch(&matmul, context)?);
    Ok(launches)
}
