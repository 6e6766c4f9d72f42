//! `gate_up_silu`: the norm into scratch 0, then both products at once, by our tensor-core kernel with the gate; otherwise gate and up into scratch 1
//! and 2, and then the product of `silu(gate)` and `up`. All in one for one row.

use longwave_contract::op::GateUpSilu;
use longwave_contract::{BackendError, Op};

use super::matmul::{self, Matmul, Product};
use super::rms_norm::{self, RmsNorm};
use super::{Argument, Context, Launch, MatmulKernel, dispatch, linear_add, one_row, threads};

/// The number of the scratch buffer that hands a result on.
const HANDED: usize = 4;

/// Where the op leaves its result as f16 for a product that follows: in scratch that no launch of the two writes to otherwise.
pub(super) fn handed(op: &GateUpSilu, next: Option<&Op>, context: &Context) -> Option<Argument> {
    let Some(Op::LinearAdd(next)) = next else {
        return None;
    };
    let weights = [op.w_gate, op.w_up];
    let mine = matmul::chosen(GateUpSilu::NAME, op.out.rows, &weights, true, context).ok()?;
    let gives = match mine {
        MatmulKernel::Library => !one_row::gate_up_serves(op),
        // It leaves rows that do not count as they are, which only the same kernel does not read.
        MatmulKernel::Few => {
            op.w_gate.dtype == op.w_up.dtype
                && linear_add::kernel(next, context) == Some(MatmulKernel::Few)
        }
        MatmulKernel::Row | MatmulKernel::Tile => false,
    };
    let taken = next.a == op.out && next.count == op.count && linear_add::takes_half(next, context);
    (gives && taken).then_some(Argument::Scratch {
        index: HANDED,
        bytes: 2 * u64::from(op.out.rows) * u64::from(op.out.cols),
    })
}

/// With `handed`, the result is left there as f16 besides.
///
/// # Errors
/// As the matrix products.
pub(super) fn launch(
    op: &GateUpSilu,
    handed: Option<Argument>,
    context: &Context,
) -> Result<Vec<Launch>, BackendError> {
    if context.force.matmul.is_none() && one_row::gate_up_serves(op) {
        return Ok(vec![one_row::gate_up_silu(op, context)?.into()]);
    }
    let rows = op.out.rows;
    let kernel = matmul::chosen(GateUpSilu::NAME, rows, &[op.w_gate, op.w_up], true, context)?;
    let norm = RmsNorm {
        x: op.x,
        select: None,
        norm: op.norm,
        epsilon: op.epsilon,
        count: op.count,
        rows,
    };
    let (normalise, a) = rms_norm::launch(&norm, kernel)?;
    let whole = matches!(kernel, MatmulKernel::Tile | MatmulKernel::Few)
        && op.w_gate.dtype == op.w_up.dtype;
    // What lies between is f16 where the library writes it: half the bytes.
    let half = kernel == MatmulKernel::Library;
    let in_pitch = match half {
        true => op.out.cols.next_multiple_of(8),
        false => op.out.cols.next_multiple_of(4),
    };
    let element = if half { 2 } else { 4 };
    let scratch = |index| Argument::Scratch {
        index,
        bytes: u64::from(rows) * u64::from(in_pitch) * element,
    };
    let (gate, up) = match whole {
        true => (op.out.into(), Argument::Absent),
        false => (scratch(1), scratch(2)),
    };
    let product = |weight, y| Product {
        weight,
        bias: None,
        y,
    };
    let matmul = Matmul {
        products: &[product(op.w_gate, gate), product(op.w_up, up)],
        a,
        count: op.count,
        rows,
        add: false,
        half,
        kernel,
    };
    if whole {
        return Ok(vec![
            normalise.into(),
            matmul::gated(&matmul, handed, context)?.into(),
        ]);
    }
    let mut launches = vec![normalise.into()];
    launches.extend(matmul::launch(&matmul, context)?);
    let pitch = op.out.cols.div_ceil(4);
    let quads = u64::from(rows) * u64::from(pitch);
    let silu = dispatch(
        "gate_up_silu",
        &[("INPUT", if half { "HALF" } else { "FLOAT" })],
        &[
            ("gate", gate),
            ("up", up),
            ("count", op.count.into()),
            ("out", op.out.into()),
            ("half_out", handed.unwrap_or(Argument::Absent)),
            ("capacity", rows.into()),
            ("pitch", pitch.into()),
            ("in_pitch", (in_pitch / 4).into()),
        ],
        [
            quads.div_ceil(u64::from(threads("gate_up_silu"))) as u32,
            1,
            1,
        ],
    )?;
    launches.push(silu.into());
    Ok(launches)
}
