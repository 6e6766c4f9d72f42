//! `embed`: one kernel for each weight type, once for each slab of the table.

use longwave_contract::BackendError;
use longwave_contract::op::Embed;

use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// Quads of elements that a workgroup writes.
const QUADS: u32 = 64;

/// # Errors
/// [`BackendError::Unsupported`] for more rows than a grid has, or an output that exceeds a binding.
pub(super) fn launch(op: &Embed, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let table = op.table;
    let kernel = kernel("embed", &[&format!("weight_{}", table.dtype.name())])?;
    let format = table.dtype.row_format(table.cols);
    let quads = table.cols.div_ceil(4);
    let grid = [quads.div_ceil(QUADS), op.out.rows, 1];
    if grid
        .iter()
        .any(|&groups| groups > context.caps.workgroups_per_axis)
    {
        return Err(unsupported(
            Embed::NAME,
            format!("a grid of {grid:?} workgroups"),
        ));
    }
    let out = context.whole(Embed::NAME, "out", op.out)?;
    let mut dispatches = Vec::new();
    for window in context.windows(table) {
        let values = [
            ("rows", op.out.rows.into()),
            ("weight_pitch", ((format.row_bytes / 16) as u32).into()),
            ("scale_offset", ((format.scale_offset / 16) as u32).into()),
            ("out_pitch", quads.into()),
            ("first", window.first.into()),
            ("window", window.rows.into()),
            ("vocabulary", table.rows.into()),
        ];
        dispatches.push(Dispatch {
            kernel,
            overrides: Vec::new(),
            params: params(kernel, &values)?,
            bindings: vec![
                ("weight", window.bound),
                ("rows", Bound::Tensor(op.rows)),
                ("count", Bound::Tensor(op.count)),
                ("out", out),
            ],
            grid,
            work: u64::from(op.out.rows) * u64::from(table.cols),
        });
    }
    Ok(dispatches)
}
