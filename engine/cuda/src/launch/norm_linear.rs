//! `norm_linear`: the selected rows' norm into scratch 0, then a matrix product; one product for one row.

use longwave_contract::BackendError;
use longwave_contract::op::NormLinear;

use super::matmul::{self, Matmul, Product};
use super::one_row::{self, Norm};
use super::rms_norm::{self, RmsNorm};
use super::{Context, Launch};

/// # Errors
/// As the matrix product.
pub(super) fn launch(op: &NormLinear, context: &Context) -> Result<Vec<Launch>, BackendError> {
    let (name, rows) = (NormLinear::NAME, op.out.rows);
    if context.force.matmul.is_none() && one_row::serves(rows, op.x.cols) {
        let norm = Norm {
            norm: op.norm,
            epsilon: op.epsilon,
        };
        let selected = Some((&norm, op.select));
        let product = one_row::product(
            op.weight, op.x, selected, None, op.count, op.out, false, context,
        )?;
        return Ok(vec![product.into()]);
    }
    let kernel = matmul::chosen(name, rows, &[op.weight], false, context)?;
    let norm = RmsNorm {
        x: op.x,
        select: Some(op.select),
        norm: op.norm,
        epsilon: op.epsilon,
        count: op.count,
        rows,
    };
    let (normalise, a) = rms_norm::launch(&norm, kernel)?;
    let product = Product {
        weight: op.weight,
        bias: None,
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
    let mut launches = vec![normalise.into()];
    launches.extend(matmul::launch(&matmul, context)?);
    Ok(launches)
}
