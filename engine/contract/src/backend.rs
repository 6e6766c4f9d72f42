//! The backend trait: who runs a recording.

use std::sync::Arc;

use crate::caps::Caps;
use crate::check::CheckError;
use crate::dtype::DType;
use crate::recording::Recording;
use crate::tensor::BufferId;

/// What to allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferDesc {
    /// For profiles and error messages.
    pub label: String,
    /// Size in bytes.
    pub bytes: u64,
    /// The row pitch of the tensor that the buffer will hold: no slab splits a row. A buffer that exceeds [`Caps::slab_limit`] holds one
    /// tensor, from its start.
    pub row: u64,
}

impl BufferDesc {
    /// What holds exactly one tensor of this type and shape.
    pub fn of(label: impl Into<String>, dtype: DType, rows: u32, cols: u32) -> Self {
        let row = dtype.row_bytes(cols);
        BufferDesc {
            label: label.into(),
            bytes: row * u64::from(rows),
            row,
        }
    }
}

/// Names a prepared recording of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanId(pub u32);

/// A run that has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "a run may fail; wait for it"]
pub struct Ticket(pub u64);

/// Why a backend could not do what it was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BackendError {
    /// No room for a buffer.
    #[error("{backend}: no memory for `{label}` ({bytes} bytes)")]
    OutOfMemory {
        /// The backend.
        backend: &'static str,
        /// What was to be allocated.
        label: String,
        /// How much.
        bytes: u64,
    },
    /// A single row of a buffer exceeds what the device can bind.
    #[error("{backend}: a row of `{label}` has {row} bytes, and the device binds at most {limit}")]
    RowTooLarge {
        /// The backend.
        backend: &'static str,
        /// What was to be allocated.
        label: String,
        /// Bytes of a row.
        row: u64,
        /// The device's limit.
        limit: u64,
    },
    /// The device is gone: unplugged, reset by its watchdog, or its driver failed.
    #[error("{backend}: the device was lost: {why}")]
    DeviceLost {
        /// The backend.
        backend: &'static str,
        /// What the driver said.
        why: String,
    },
    /// The backend has no kernel for this op with these operands.
    #[error("{backend}: {op} is not supported: {why}")]
    Unsupported {
        /// The op's name.
        op: &'static str,
        /// The backend.
        backend: &'static str,
        /// What is missing.
        why: String,
    },
    /// No device answers to what was asked for.
    #[error("{backend}: {why}")]
    NoDevice {
        /// The backend.
        backend: &'static str,
        /// What was looked for and what there is.
        why: String,
    },
    /// A buffer or plan that does not exist, or bytes outside of a buffer.
    #[error("{backend}: {what}")]
    BadHandle {
        /// The backend.
        backend: &'static str,
        /// Which handle or range.
        what: String,
    },
    /// The driver refused a command that passed the contract's checks: a defect of the backend.
    #[error("{backend}: the driver refused a command: {why}")]
    Internal {
        /// The backend.
        backend: &'static str,
        /// What the driver said.
        why: String,
    },
    /// A shape check failed while preparing.
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// Owns memory on a device and runs recordings there.
///
/// Calls take effect in the order in which they are made: a `read` after a `run` sees its results. All methods may be called from any
/// thread; a backend serialises them.
pub trait Backend: Send + Sync {
    /// What the device can do.
    fn caps(&self) -> &Caps;

    /// Bytes that this backend has allocated for buffers and for its own working memory.
    fn allocated(&self) -> u64;

    /// Makes a buffer of zeros.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] or [`BackendError::RowTooLarge`].
    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId, BackendError>;

    /// Gives a buffer back. Plans that name it can no longer run.
    fn free(&self, buffer: BufferId);

    /// Writes `bytes` at `offset`, both multiples of 4.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] outside of the buffer.
    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), BackendError>;

    /// Reads `bytes.len()` bytes at `offset`, both multiples of 4, after all earlier runs.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] outside of the buffer, and whatever an earlier run failed with.
    fn read(&self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<(), BackendError>;

    /// Copies `bytes` from one buffer to another, or within one where the ranges do not overlap; all numbers multiples of 4.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] outside of a buffer or for overlapping ranges.
    fn copy(
        &self,
        from: (BufferId, u64),
        to: (BufferId, u64),
        bytes: u64,
    ) -> Result<(), BackendError>;

    /// Chooses kernels and whatever else can be done once for a recording.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] naming the op, or a failure to build a kernel.
    fn prepare(&self, recording: &Recording) -> Result<PlanId, BackendError>;

    /// The kernels that a plan runs, in order, each as `op: kernel`.
    fn kernels(&self, plan: PlanId) -> Vec<String>;

    /// Forgets a plan.
    fn release(&self, plan: PlanId);

    /// Queues a plan. It may not have begun when this returns; it has at the latest when something waits for it or reads.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] for a plan that was released or whose buffers are gone, and device errors, which may be those of earlier calls.
    fn run(&self, plan: PlanId) -> Result<Ticket, BackendError>;

    /// Waits until a run, and all before it, have ended.
    ///
    /// # Errors
    /// What the run failed with, and [`BackendError::BadHandle`] for one that never was.
    fn wait(&self, ticket: Ticket) -> Result<(), BackendError>;

    /// Runs a plan to its end, op by op, and returns the nanoseconds that each op of its recording took on the device, in order. Together they
    /// may take longer than a run, in which ops overlap.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] where the backend or its device takes no time, and as [`Backend::run`].
    fn profile(&self, plan: PlanId) -> Result<Vec<u64>, BackendError> {
        let _ = plan;
        Err(BackendError::Unsupported {
            op: "profile",
            backend: self.caps().backend,
            why: "the backend takes no time of single ops".into(),
        })
    }
}

/// A buffer that is given back when it is dropped.
pub struct Allocation {
    backend: Arc<dyn Backend>,
    id: BufferId,
    bytes: u64,
}

impl Allocation {
    /// Allocates a buffer.
    ///
    /// # Errors
    /// As [`Backend::alloc`].
    pub fn new(backend: &Arc<dyn Backend>, desc: &BufferDesc) -> Result<Self, BackendError> {
        let id = backend.alloc(desc)?;
        Ok(Allocation {
            backend: Arc::clone(backend),
            id,
            bytes: desc.bytes,
        })
    }

    /// The buffer.
    pub fn id(&self) -> BufferId {
        self.id
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.backend.free(self.id);
    }
}

impl std::fmt::Debug for Allocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Allocation({:?}, {} bytes)", self.id, self.bytes)
    }
}
