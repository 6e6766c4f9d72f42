//! `attend_stored`: no shader serves it yet, and `Caps::stored_heads` says so; tokens are restored for `attend` instead.

use longwave_contract::BackendError;
use longwave_contract::op::AttendStored;

use super::{Dispatch, unsupported};

/// # Errors
/// [`BackendError::Unsupported`], always.
pub(super) fn launch(op: &AttendStored) -> Result<Vec<Dispatch>, BackendError> {
    let why = format!("stored heads of {} elements", op.shape.head_dim);
    Err(unsupported(AttendStored::NAME, why))
}
