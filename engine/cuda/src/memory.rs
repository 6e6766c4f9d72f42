//! Device memory, counted; and the buffers of the contract, each one range of addresses.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longwave_contract::{BackendError, BufferDesc, BufferId, Tensor};

use crate::BACKEND;
use crate::driver::Gpu;
use crate::fault::{bad_handle, internal};

/// Sizes of allocations are multiples of this, so that kernels may read any row's last 16 bytes.
const GRANULE: u64 = 256;

/// Counts what is allocated.
#[derive(Debug, Default)]
pub(crate) struct Account {
    bytes: AtomicU64,
    /// What may not be exceeded, where a test limits it.
    limit: Option<u64>,
}

impl Account {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Account {
            limit,
            ..Account::default()
        }
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Device memory that is counted for as long as it is held.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    gpu: Arc<Gpu>,
    account: Arc<Account>,
    address: u64,
    size: u64,
}

impl DeviceBuffer {
    /// Allocates memory, which is not cleared.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`], also beyond the account's limit.
    pub(crate) fn new(
        gpu: &Arc<Gpu>,
        account: &Arc<Account>,
        label: &str,
        bytes: u64,
    ) -> Result<Self, BackendError> {
        let full = || BackendError::OutOfMemory {
            backend: BACKEND,
            label: label.into(),
            bytes,
        };
        let size = bytes
            .max(1)
            .checked_next_multiple_of(GRANULE)
            .ok_or_else(full)?;
        let total = account.bytes().saturating_add(size);
        if account.limit.is_some_and(|limit| total > limit) {
            return Err(full());
        }
        let address = gpu.allocate(label, size)?;
        account.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(DeviceBuffer {
            gpu: Arc::clone(gpu),
            account: Arc::clone(account),
            address,
            size,
        })
    }

    /// Its first byte on the device.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.gpu.release(self.address);
        self.account.bytes.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// One buffer of the contract.
#[derive(Debug)]
pub(crate) struct Buffer {
    label: String,
    bytes: u64,
    memory: DeviceBuffer,
}

impl Buffer {
    /// The address of `bytes` bytes from `offset`.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] when the range is not within the buffer or not of whole words.
    pub(crate) fn range(&self, offset: u64, bytes: u64) -> Result<u64, BackendError> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.bytes);
        if end.is_none() {
            let (label, size) = (&self.label, self.bytes);
            let what = format!("{bytes} bytes from {offset} of `{label}`, which has {size}");
            return Err(bad_handle(what));
        }
        if !offset.is_multiple_of(4) || !bytes.is_multiple_of(4) {
            let what = format!(
                "{bytes} bytes from {offset} of `{}` are not whole words",
                self.label
            );
            return Err(bad_handle(what));
        }
        Ok(self.memory.address() + offset)
    }
}

/// All buffers of a backend, by id.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    held: HashMap<BufferId, Buffer>,
    next: u32,
}

impl Buffers {
    /// Allocates a buffer of zeros.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub(crate) fn alloc(
        &mut self,
        gpu: &Arc<Gpu>,
        account: &Arc<Account>,
        desc: &BufferDesc,
    ) -> Result<BufferId, BackendError> {
        let id = BufferId(self.next);
        let exhausted = || internal("all buffer numbers are used up");
        let next = self.next.checked_add(1).ok_or_else(exhausted)?;
        let memory = DeviceBuffer::new(gpu, account, &desc.label, desc.bytes)?;
        gpu.clear(memory.address(), memory.size())?;
        self.next = next;
        let buffer = Buffer {
            label: desc.label.clone(),
            bytes: desc.bytes,
            memory,
        };
        self.held.insert(id, buffer);
        Ok(id)
    }

    /// Gives a buffer back.
    pub(crate) fn free(&mut self, id: BufferId) {
        self.held.remove(&id);
    }

    /// The buffer of this id.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] when there is none, or no longer.
    pub(crate) fn get(&self, id: BufferId) -> Result<&Buffer, BackendError> {
        let unknown = || bad_handle(format!("there is no buffer {}", id.0));
        self.held.get(&id).ok_or_else(unknown)
    }

    /// The address of a tensor's first row.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] where the tensor is not within its buffer.
    pub(crate) fn address(&self, tensor: Tensor) -> Result<u64, BackendError> {
        let buffer = self.get(tensor.buffer)?;
        let bytes = u64::from(tensor.rows).checked_mul(tensor.row_bytes());
        let end = bytes.and_then(|bytes| bytes.checked_add(tensor.offset));
        if end.is_none_or(|end| end > buffer.bytes) {
            let (label, bytes, offset) = (&buffer.label, buffer.bytes, tensor.offset);
            let what =
                format!("{tensor} at {offset} is not within `{label}`, which has {bytes} bytes");
            return Err(bad_handle(what));
        }
        Ok(buffer.memory.address() + tensor.offset)
    }
}
