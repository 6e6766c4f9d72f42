//! `embed`: a thread for every four elements.

use longwave_contract::BackendError;
use longwave_contract::op::Embed;

use super::{Context, Dispatch, dispatch, threads, weight};

/// # Errors
/// None but defects.
pub(super) fn launch(op: &Embed, _: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let format = op.table.dtype.row_format(op.table.cols);
    let quads = op.table.cols.div_ceil(4);
    let embed = dispatch(
        "embed",
        &[("WEIGHT", weight(op.table))],
        &[
            ("table", op.table.into()),
            ("rows", op.rows.into()),
            ("count", op.count.into()),
            ("out", op.out.into()),
            ("capacity", op.out.rows.into()),
            ("vocabulary", op.table.rows.into()),
            ("weight_pitch", ((format.row_bytes / 16) as u32).into()),
            ("scale_offset", ((format.scale_offset / 16) as u32).into()),
            ("out_pitch", quads.into()),
        ],
        [quads.div_ceil(threads("embed")), op.out.rows, 1],
    )?;
    Ok(vec![embed])
}
