//! What the driver's answers mean.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use longwave_contract::BackendError;

use crate::BACKEND;

/// The driver's error as the contract's, for something called `label` of `bytes` bytes. What leaves the context unusable is a lost device.
pub(crate) fn refusal(error: DriverError, label: &str, bytes: u64) -> BackendError {
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => BackendError::OutOfMemory {
            backend: BACKEND,
            label: label.into(),
            bytes,
        },
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_DEINITIALIZED => BackendError::DeviceLost {
            backend: BACKEND,
            why: format!("{label}: {error}"),
        },
        _ => internal(format!("{label}: {error}")),
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
