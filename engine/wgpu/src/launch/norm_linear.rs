//! `norm_linear`: the selected rows' norm into scratch 0, then a matrix product; one product for one row.

use longwave_contract::BackendError;
use longwave_contract::op::NormLinear;

use super::matmul::{self, Input, Matmul};
use super::one_row::{self, Norm};
use super::rms_norm::{self, RmsNorm};
use super::{Context, Dispatch};

/// # Errors
/// As the norm and the matrix product, and for operands that exceed a binding.
pub(super) fn launch(
    op: &NormLinear,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    if one_row::serves(op.out.rows, op.x.cols, context) && op.x.cols.is_multiple_of(matmul::STEP) {
        let matmul = Matmul {
            op: NormLinear::NAME,
            weight: op.weight,
            a: context.whole(NormLinear::NAME, "x", op.x)?,
            input: Input::Whole,
            bias: None,
            count: op.count,
            y: context.whole(NormLinear::NAME, "out", op.out)?,
            rows: 1,
            add: false,
        };
        let norm = Norm {
            norm: op.norm,
            epsilon: op.epsilon,
        };
        return one_row::launch(&matmul, Some((&norm, op.x, op.select)), context);
    }
    let input = matmul::input(op.out.rows, &[op.weight], context);
    let norm = RmsNorm {
        op: NormLinear::NAME,
        x: op.x,
        select: Some(op.select),
        norm: op.norm,
        epsilon: op.epsilon,
        count: op.count,
        rows: op.out.rows,
        input,
        scratch: 0,
    };
    let (normalise, a) = rms_norm::launch(&norm, context)?;
    let matmul = Matmul {
        op: NormLinear::NAME,
        weight: op.weight,
        a,
        input,
        bias: None,
        count: op.count,
        y: context.whole(NormLinear::NAME, "out", op.out)?,
        rows: op.out.rows,
        add: false,
    };
    let mut dispatches = vec![normalise];
    dispatches.extend(matmul::launch(&matmul, context)?);
    Ok(dispatches)
}
