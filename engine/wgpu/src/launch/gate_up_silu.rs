//! `gate_up_silu`: the norm into scratch 0, gate and up into scratch 1 and 2, then the product of `silu(gate)` and `up`; all in one for one row.

use longwave_contract::op::GateUpSilu;
use longwave_contract::{BackendError, Tensor};

use super::matmul::{self, Matmul};
use super::one_row;
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
    if one_row::serves(rows, op.x.cols, context)
        && op.x.cols.is_multiple_of(matmul::STEP)
        && one_row::share(&[op.w_gate, op.w_up], context)
    {
        return Ok(vec![one(op, context)?]);
    }
    let input = matmul::input(rows, &[op.w_gate, op.w_up], context);
    let norm = RmsNorm {
        op: GateUpSilu::NAME,
        x: op.x,
        select: None,
        norm: op.norm,
        epsilon: op.epsilon,
        count: op.count,
        rows,
        input,
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
            input,
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

/// The dispatch for one row.
fn one(op: &GateUpSilu, context: &Context<'_>) -> Result<Dispatch, BackendError> {
    let name = GateUpSilu::NAME;
    let (kernel, teams) = one_row::kernel_of("gate_up_silu_one", op.w_gate.dtype, &[], context)?;
    let grid = context.grid(name, u64::from(op.w_gate.rows.div_ceil(teams)))?;
    let mut values = one_row::weight_words(op.w_gate).to_vec();
    values.extend([
        ("outputs", op.w_gate.rows.into()),
        ("x_groups", grid[0].into()),
        ("teams", teams.into()),
        ("epsilon", op.epsilon.into()),
    ]);
    Ok(Dispatch {
        kernel,
        overrides: vec![("UNROLL", f64::from(one_row::unroll(op.w_gate.dtype, 2)))],
        params: params(kernel, &values)?,
        bindings: vec![
            ("weight0", context.whole(name, "w_gate", op.w_gate)?),
            ("weight1", context.whole(name, "w_up", op.w_up)?),
            ("a", context.whole(name, "x", op.x)?),
            ("norm", Bound::Tensor(op.norm)),
            ("count", Bound::Tensor(op.count)),
            ("out", context.whole(name, "out", op.out)?),
        ],
        grid,
        work: 2 * u64::from(op.w_gate.rows) * u64::from(op.w_gate.cols),
    })
}
