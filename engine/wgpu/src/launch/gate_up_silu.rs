//! `gate_up_silu`: the norm into scratch 0, gate and up into scratch 1 and 2, then the product of `silu(gate)` and `up`.

use longwave_contract::op::GateUpSilu;
use longwave_contract::{BackendError, Tensor};

use super::matmul::{self, Matmul};
use super::rms_norm::{self, RmsNorm};
use super::{Bound, Context, Dispatch, kernel, params};

/// Quads of elements that a workgroup computes.
const QUADS: u64 = 64;

/// # Errors
/// As the norm and the matrix products, and for operands that exceed a binding.
pub(super) fn launch(
    op: &GateUpSilu,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let rows = op.out.rows;
    let norm = RmsNorm {
        op: GateUpSilu::NAME,
        x: op.x,
        select: None,
        norm: op.norm,
        epsilon: op.epsilon,
        count: op.count,
        rows,
        scratch: 0,
    };
    let (normalise, a) = rms_norm::launch(&norm, context)?;
    let mut dispatches = vec![normalise];
    let mut project = |weight: Tensor, index: usize| {
        let y = context.scratch(GateUpSilu::NAME, index, op.out.bytes())?;
        let matmul = Matmul {
            op: GateUpSilu::NAME,
            weight,
            a,
            bias: None,
            count: op.count,
            y,
            rows,
            add: false,
        };
        dispatches.extend(matmul::launch(&matmul, context)?);
        Ok::<_, BackendError>(y)
    };
    let gate = project(op.w_gate, 1)?;
    let up = project(op.w_up, 2)?;
    let kernel = kernel("gate_up_silu", &[])?;
    let pitch = op.out.cols.div_ceil(4);
    let grid = context.grid(
        GateUpSilu::NAME,
        (u64::from(rows) * u64::from(pitch)).div_ceil(QUADS),
    )?;
    let values = [
        ("rows", rows.into()),
        ("pitch", pitch.into()),
        ("x_groups", grid[0].into()),
    ];
    dispatches.push(Dispatch {
        kernel,
        overrides: Vec::new(),
        params: params(kernel, &values)?,
        bindings: vec![
            ("gate", gate),
            ("up", up),
            ("count", Bound::Tensor(op.count)),
            ("out", context.whole(GateUpSilu::NAME, "out", op.out)?),
        ],
        grid,
        work: u64::from(rows) * u64::from(op.out.cols),
    });
    Ok(dispatches)
}
