//! Errors that the driver reports outside of a call.
//!
//! wgpu hands most errors to a handler of the device, and its own handler panics. Ours records them, and the next call of the backend
//! returns them.

use std::sync::{Mutex, PoisonError};

use longwave_contract::BackendError;

use crate::BACKEND;

/// What has been reported and not yet returned.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Record>);

#[derive(Default)]
struct Record {
    /// Why the device is gone, which stays so.
    lost: Option<String>,
    /// The first error since the last check.
    refused: Option<BackendError>,
}

impl Faults {
    /// The device is gone. The first reason counts.
    pub(crate) fn lose(&self, why: impl Into<String>) {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        record.lost.get_or_insert(why.into());
    }

    /// An error that no scope caught.
    pub(crate) fn report(&self, error: &wgpu::Error) {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        record
            .refused
            .get_or_insert_with(|| refusal(error, "a command", 0));
    }

    /// Fails with what was reported since the last check, and for good once the device is lost.
    ///
    /// # Errors
    /// [`BackendError::DeviceLost`], or the first error that was reported.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &record.lost {
            return Err(BackendError::DeviceLost {
                backend: BACKEND,
                why: why.clone(),
            });
        }
        record.refused.take().map_or(Ok(()), Err)
    }
}

/// wgpu's error as the contract's, for something called `label` of `bytes` bytes.
pub(crate) fn refusal(error: &wgpu::Error, label: &str, bytes: u64) -> BackendError {
    match error {
        wgpu::Error::OutOfMemory { .. } => BackendError::OutOfMemory {
            backend: BACKEND,
            label: label.into(),
            bytes,
        },
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            internal(format!("{label}: {}", description.trim()))
        }
    }
}

/// A defect of this backend, or of the driver.
pub(crate) fn internal(why: impl Into<String>) -> BackendError {
    BackendError::Internal {
        backend: BACKEND,
        why: why.into(),
    }
}

/// A handle or range that does not exist.
pub(crate) fn bad_handle(what: impl Into<String>) -> BackendError {
    BackendError::BadHandle {
        backend: BACKEND,
        what: what.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_returned_once_and_a_loss_for_good() {
        let faults = Faults::default();
        assert_eq!(faults.check(), Ok(()));
        faults.report(&wgpu::Error::OutOfMemory {
            source: "full".into(),
        });
        assert!(matches!(
            faults.check(),
            Err(BackendError::OutOfMemory { .. })
        ));
        assert_eq!(faults.check(), Ok(()));
        faults.lose("unplugged");
        faults.lose("and later something else");
        for _ in 0..2 {
            let expected = Err(BackendError::DeviceLost {
                backend: BACKEND,
                why: "unplugged".into(),
            });
            assert_eq!(faults.check(), expected);
        }
    }
}
