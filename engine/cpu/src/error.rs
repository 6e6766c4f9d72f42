//! Makers of the contract's errors.

use longwave_contract::{BackendError, CheckError};

/// The backend's name in errors and [`longwave_contract::Caps`].
pub(crate) const NAME: &str = "cpu";

/// An operand whose contents do not fit.
pub(crate) fn misfit(
    op: &'static str,
    operand: &'static str,
    expected: impl ToString,
    found: impl ToString,
) -> BackendError {
    BackendError::Check(CheckError {
        op,
        operand,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}

/// A handle that names nothing, or a range outside of a buffer.
pub(crate) fn bad_handle(what: impl ToString) -> BackendError {
    BackendError::BadHandle {
        backend: NAME,
        what: what.to_string(),
    }
}
