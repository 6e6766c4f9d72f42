//! `activate`: a thread for every four elements of the result.

use longwave_contract::BackendError;
use longwave_contract::op::{Activate, Activation};

use super::{Context, Dispatch, dispatch, threads, unsupported};

/// Blocks of a grid's second axis.
const BLOCKS: u32 = 65_535;

/// # Errors
/// [`BackendError::Unsupported`] for more than 33 million columns.
pub(super) fn launch(op: &Activate, _: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let (rows, cols) = (op.out.rows, op.out.cols);
    let blocks = cols.div_ceil(4).div_ceil(threads("activate"));
    if blocks > BLOCKS {
        return Err(unsupported(Activate::NAME, format!("{cols} columns")));
    }
    let base_pitch = match op.base.rows {
        1 => 0,
        _ => op.base.cols.next_multiple_of(4),
    };
    let activation = match op.activation {
        Activation::Gelu => "GELU",
        Activation::SwiGlu => "SWIGLU",
    };
    let activate = dispatch(
        "activate",
        &[("ACTIVATION", activation)],
        &[
            ("change", op.change.into()),
            ("base", op.base.into()),
            ("count", op.count.into()),
            ("out", op.out.into()),
            ("rows", rows.into()),
            ("cols", cols.into()),
            ("change_pitch", op.change.cols.next_multiple_of(4).into()),
            ("base_pitch", base_pitch.into()),
            ("out_pitch", cols.next_multiple_of(4).into()),
        ],
        [rows, blocks, 1],
    )?;
    Ok(vec![activate])
}
