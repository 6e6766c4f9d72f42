//! `activate`: one element a thread.

use longwave_contract::BackendError;
use longwave_contract::op::{Activate, Activation};

use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// Elements that a workgroup computes.
const ELEMENTS: u64 = 64;

/// # Errors
/// [`BackendError::Unsupported`] for too many elements, and operands that exceed a binding.
pub(super) fn launch(op: &Activate, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let name = Activate::NAME;
    let kernel = kernel("activate", &[])?;
    let (rows, cols) = (op.out.rows, op.out.cols);
    let elements = u64::from(rows) * u64::from(op.change.cols.next_multiple_of(4));
    if elements > u64::from(u32::MAX) - ELEMENTS {
        return Err(unsupported(name, format!("{elements} elements")));
    }
    let grid = context.grid(name, (u64::from(rows) * u64::from(cols)).div_ceil(ELEMENTS))?;
    let base_pitch = match op.base.rows {
        1 => 0,
        _ => op.base.cols.next_multiple_of(4),
    };
    let values = [
        ("rows", rows.into()),
        ("cols", cols.into()),
        ("x_groups", grid[0].into()),
        ("change_pitch", op.change.cols.next_multiple_of(4).into()),
        ("base_pitch", base_pitch.into()),
        ("out_pitch", cols.next_multiple_of(4).into()),
        (
            "gated",
            u32::from(op.activation == Activation::SwiGlu).into(),
        ),
    ];
    let dispatch = Dispatch {
        kernel,
        overrides: Vec::new(),
        params: params(kernel, &values)?,
        bindings: vec![
            ("change", context.whole(name, "change", op.change)?),
            ("base", context.whole(name, "base", op.base)?),
            ("count", Bound::Tensor(op.count)),
            ("out", context.whole(name, "out", op.out)?),
        ],
        grid,
        work: 8 * u64::from(rows) * u64::from(op.change.cols),
    };
    Ok(vec![dispatch])
}
