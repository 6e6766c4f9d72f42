//! Device buffers, counted; and the buffers of the contract, each cut into slabs.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longwave_contract::{BackendError, BufferDesc, BufferId, Slabs, Tensor};

use crate::BACKEND;
use crate::device::Gpu;
use crate::fault::{bad_handle, internal, refusal};

/// Sizes of device buffers are multiples of this, so that any tensor's last row can be bound whole.
const GRANULE: u64 = 16;

/// Counts what is allocated.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Bytes that kernels use.
    device: AtomicU64,
    /// Bytes that only move data to and from the host.
    staging: AtomicU64,
    /// What `device` may not exceed, where a test limits it.
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
        self.device.load(Ordering::Relaxed) + self.staging.load(Ordering::Relaxed)
    }

    fn counter(&self, usage: wgpu::BufferUsages) -> &AtomicU64 {
        if usage.intersects(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE) {
            &self.staging
        } else {
            &self.device
        }
    }

    fn allows(&self, usage: wgpu::BufferUsages, bytes: u64) -> bool {
        let counter = self.counter(usage);
        let limited = std::ptr::eq(counter, &self.device);
        let total = counter.load(Ordering::Relaxed).saturating_add(bytes);
        !limited || self.limit.is_none_or(|limit| total <= limit)
    }
}

/// A buffer of wgpu that is counted for as long as it is held.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    pub(crate) raw: wgpu::Buffer,
    account: Arc<Account>,
}

impl DeviceBuffer {
    /// Allocates; with `mapped` the host can write it at once.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] beyond the account's limit, or when the driver has no room even after ended submissions gave back
    /// what they held.
    pub(crate) fn new(
        gpu: &Gpu,
        account: &Arc<Account>,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        mapped: bool,
    ) -> Result<Self, BackendError> {
        let size = bytes.max(1).next_multiple_of(GRANULE);
        if !account.allows(usage, size) {
            return Err(BackendError::OutOfMemory {
                backend: BACKEND,
                label: label.into(),
                bytes,
            });
        }
        let create = || {
            gpu.scoped(|device| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size,
                    usage,
                    mapped_at_creation: mapped,
                })
            })
        };
        let raw = match create() {
            Err(wgpu::Error::OutOfMemory { .. }) => {
                gpu.wait(None)?;
                create()
            }
            other => other,
        };
        let raw = raw.map_err(|error| refusal(&error, label, bytes))?;
        // A lost device gives out buffers that do nothing.
        gpu.faults.check()?;
        account.counter(usage).fetch_add(size, Ordering::Relaxed);
        Ok(DeviceBuffer {
            raw,
            account: Arc::clone(account),
        })
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.raw.size()
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let counter = self.account.counter(self.raw.usage());
        counter.fetch_sub(self.raw.size(), Ordering::Relaxed);
    }
}

/// One buffer of the contract.
#[derive(Debug)]
pub(crate) struct Buffer {
    label: String,
    bytes: u64,
    slabs: Slabs,
    parts: Vec<DeviceBuffer>,
}

/// Bytes of one device buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) buffer: &'a wgpu::Buffer,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Buffer {
    /// How it was cut.
    pub(crate) fn slabs(&self) -> Slabs {
        self.slabs
    }

    /// The pieces that make up a range of the buffer, in order.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] when the range is not within the buffer or not of whole words.
    pub(crate) fn pieces(&self, range: Range<u64>) -> Result<Vec<Piece<'_>>, BackendError> {
        let Range { start, end } = range;
        if start > end || end > self.bytes {
            let (label, bytes) = (&self.label, self.bytes);
            let what = format!("bytes {start}..{end} of `{label}`, which has {bytes}");
            return Err(bad_handle(what));
        }
        if !start.is_multiple_of(4) || !end.is_multiple_of(4) {
            let what = format!(
                "bytes {start}..{end} of `{}` are not whole words",
                self.label
            );
            return Err(bad_handle(what));
        }
        let cut = self.slabs.pieces(start, end - start);
        cut.map(|(slab, offset, bytes)| {
            let part = self.part(slab)?;
            Ok(Piece {
                buffer: &part.raw,
                offset,
                bytes,
            })
        })
        .collect()
    }

    /// The piece that one slab holds of a tensor that starts the buffer.
    ///
    /// # Errors
    /// [`BackendError::Internal`] for a slab that does not exist, or a tensor that starts elsewhere.
    pub(crate) fn slab(&self, tensor: Tensor, index: usize) -> Result<Piece<'_>, BackendError> {
        let part = self.part(index)?;
        let start = self.slabs.slab_bytes().saturating_mul(index as u64);
        let bytes = tensor
            .bytes()
            .saturating_sub(start)
            .min(self.slabs.size(index));
        if bytes == 0 || tensor.offset != 0 {
            let why = format!("slab {index} of `{}` holds nothing of {tensor}", self.label);
            return Err(internal(why));
        }
        Ok(Piece {
            buffer: &part.raw,
            offset: 0,
            bytes,
        })
    }

    fn part(&self, slab: usize) -> Result<&DeviceBuffer, BackendError> {
        let missing = || internal(format!("`{}` has no slab {slab}", self.label));
        self.parts.get(slab).ok_or_else(missing)
    }
}

/// All buffers of a backend, by id.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    held: HashMap<BufferId, Buffer>,
    next: u32,
}

impl Buffers {
    /// Allocates a buffer of zeros, cut at `limit` bytes. wgpu clears a buffer before its first use where that does not write all of it.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] or [`BackendError::RowTooLarge`].
    pub(crate) fn alloc(
        &mut self,
        gpu: &Gpu,
        account: &Arc<Account>,
        desc: &BufferDesc,
        limit: u64,
    ) -> Result<BufferId, BackendError> {
        let too_large = || BackendError::RowTooLarge {
            backend: BACKEND,
            label: desc.label.clone(),
            row: desc.row,
            limit,
        };
        let slabs = Slabs::new(desc.bytes, desc.row, limit).ok_or_else(too_large)?;
        if slabs.count() > 1 && !desc.row.is_multiple_of(GRANULE) {
            let (label, row) = (&desc.label, desc.row);
            let what = format!(
                "`{label}` is cut into slabs, and its rows of {row} bytes are not padded to {GRANULE}"
            );
            return Err(bad_handle(what));
        }
        let id = BufferId(self.next);
        let exhausted = || internal("all buffer numbers are used up");
        let next = self.next.checked_add(1).ok_or_else(exhausted)?;
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let part =
            |index| DeviceBuffer::new(gpu, account, &desc.label, slabs.size(index), usage, false);
        let parts = (0..slabs.count()).map(part).collect::<Result<_, _>>();
        let parts = parts.map_err(|error| match error {
            // The whole buffer is what there was no room for.
            BackendError::OutOfMemory { backend, label, .. } => BackendError::OutOfMemory {
                backend,
                label,
                bytes: desc.bytes,
            },
            other => other,
        })?;
        self.next = next;
        let buffer = Buffer {
            label: desc.label.clone(),
            bytes: desc.bytes,
            slabs,
            parts,
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

    /// The buffer that a tensor lies in, wholly and, where it was cut, with whole rows in every slab.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] otherwise.
    pub(crate) fn holding(&self, tensor: Tensor) -> Result<&Buffer, BackendError> {
        let buffer = self.get(tensor.buffer)?;
        let end = u64::from(tensor.rows)
            .checked_mul(tensor.row_bytes())
            .and_then(|bytes| bytes.checked_add(tensor.offset));
        if end.is_none_or(|end| end > buffer.bytes) {
            let (label, bytes, offset) = (&buffer.label, buffer.bytes, tensor.offset);
            let what =
                format!("{tensor} at {offset} is not within `{label}`, which has {bytes} bytes");
            return Err(bad_handle(what));
        }
        let slabs = buffer.slabs;
        let fits = tensor.offset == 0 && slabs.slab_bytes().is_multiple_of(tensor.row_bytes());
        let spans = slabs.pieces(tensor.offset, tensor.bytes()).nth(1).is_some();
        if spans && !fits {
            let what = format!(
                "{tensor} is not the tensor that `{}` was cut for",
                buffer.label
            );
            return Err(bad_handle(what));
        }
        Ok(buffer)
    }
}
