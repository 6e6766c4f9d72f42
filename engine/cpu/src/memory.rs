//! Buffers by id.

use std::collections::HashMap;

use bytemuck::Zeroable;
use longwave_contract::{BackendError, BufferDesc, BufferId, Tensor};

use crate::error::{NAME, bad_handle, misfit};
use crate::host;
use crate::line::Line;
use crate::row::{Matrix, MatrixMut};

/// From this size on, the host's free memory is asked before an allocation: systems that overcommit grant anything and end the program later.
const LARGE: u64 = 64 << 20;

#[derive(Default)]
struct Buffer {
    label: String,
    bytes: u64,
    lines: Vec<Line>,
}

/// Every buffer of a backend.
#[derive(Default)]
pub(crate) struct Memory {
    buffers: HashMap<BufferId, Buffer>,
    next: u32,
    allocated: u64,
}

impl Memory {
    /// Bytes of all buffers, rounded up to cache lines.
    pub(crate) fn allocated(&self) -> u64 {
        self.allocated
    }

    pub(crate) fn alloc(&mut self, desc: &BufferDesc) -> Result<BufferId, BackendError> {
        let out_of_memory = || BackendError::OutOfMemory {
            backend: NAME,
            label: desc.label.clone(),
            bytes: desc.bytes,
        };
        if desc.bytes >= LARGE && host::available().is_some_and(|free| desc.bytes > free) {
            return Err(out_of_memory());
        }
        let count =
            usize::try_from(desc.bytes.div_ceil(Line::BYTES)).map_err(|_| out_of_memory())?;
        let next = self.next.checked_add(1).ok_or_else(out_of_memory)?;
        let mut lines = Vec::new();
        lines
            .try_reserve_exact(count)
            .map_err(|_| out_of_memory())?;
        lines.resize(count, Line::zeroed());
        let id = BufferId(self.next);
        self.next = next;
        self.allocated += count as u64 * Line::BYTES;
        let buffer = Buffer {
            label: desc.label.clone(),
            bytes: desc.bytes,
            lines,
        };
        self.buffers.insert(id, buffer);
        Ok(id)
    }

    pub(crate) fn free(&mut self, id: BufferId) {
        if let Some(buffer) = self.buffers.remove(&id) {
            self.allocated -= buffer.lines.len() as u64 * Line::BYTES;
        }
    }

    pub(crate) fn write(
        &mut self,
        id: BufferId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let range = self.range(id, offset, bytes.len() as u64)?;
        let storage = self.storage_mut(id)?;
        storage[range].copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn read(
        &self,
        id: BufferId,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), BackendError> {
        let range = self.range(id, offset, bytes.len() as u64)?;
        let buffer = self.buffer(id)?;
        bytes.copy_from_slice(&bytemuck::cast_slice(&buffer.lines)[range]);
        Ok(())
    }

    pub(crate) fn copy(
        &mut self,
        from: (BufferId, u64),
        to: (BufferId, u64),
        bytes: u64,
    ) -> Result<(), BackendError> {
        let source = self.range(from.0, from.1, bytes)?;
        let target = self.range(to.0, to.1, bytes)?;
        if from.0 == to.0 {
            if source.start < target.end && target.start < source.end {
                return Err(bad_handle(format_args!(
                    "copy within {}: bytes {source:?} and {target:?} overlap",
                    self.describe(from.0),
                )));
            }
            self.storage_mut(to.0)?.copy_within(source, target.start);
            return Ok(());
        }
        let lines = self.take(from.0)?;
        let copied = self
            .storage_mut(to.0)
            .map(|storage| storage[target].copy_from_slice(&bytemuck::cast_slice(&lines)[source]));
        self.put(from.0, lines);
        copied
    }

    /// A tensor to read.
    pub(crate) fn matrix(&self, tensor: Tensor) -> Result<Matrix<'_>, BackendError> {
        let buffer = self.buffer(tensor.buffer)?;
        let words = self.words(tensor, &buffer.lines)?;
        Ok(Matrix::new(
            &bytemuck::cast_slice(&buffer.lines)[words],
            tensor,
        ))
    }

    /// Lends a tensor that an op writes; everything else of the memory can be read meanwhile. The contract says that the tensor's buffer is no
    /// other operand of the op; where it is all the same, the other is found to lie outside of its buffer.
    pub(crate) fn lend<T>(
        &mut self,
        tensor: Tensor,
        work: impl FnOnce(&mut Memory, MatrixMut<'_>) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let mut lines = self.take(tensor.buffer)?;
        let result = self.words(tensor, &lines).and_then(|words| {
            let words = &mut bytemuck::cast_slice_mut(&mut lines)[words];
            work(self, MatrixMut::new(words, tensor))
        });
        self.put(tensor.buffer, lines);
        result
    }

    /// How many rows count, at most `capacity`.
    pub(crate) fn count(
        &self,
        op: &'static str,
        tensor: Tensor,
        capacity: u32,
    ) -> Result<usize, BackendError> {
        let count = self.matrix(tensor)?.u32s(0)[0];
        if count > capacity {
            let expected = format_args!("at most {capacity} rows");
            return Err(misfit(op, "count", expected, count));
        }
        Ok(count as usize)
    }

    fn buffer(&self, id: BufferId) -> Result<&Buffer, BackendError> {
        self.buffers
            .get(&id)
            .ok_or_else(|| bad_handle(format_args!("there is no buffer {}", id.0)))
    }

    fn storage_mut(&mut self, id: BufferId) -> Result<&mut [u8], BackendError> {
        let buffer = self
            .buffers
            .get_mut(&id)
            .ok_or_else(|| bad_handle(format_args!("there is no buffer {}", id.0)))?;
        Ok(bytemuck::cast_slice_mut(&mut buffer.lines))
    }

    fn take(&mut self, id: BufferId) -> Result<Vec<Line>, BackendError> {
        self.buffers
            .get_mut(&id)
            .map(|buffer| std::mem::take(&mut buffer.lines))
            .ok_or_else(|| bad_handle(format_args!("there is no buffer {}", id.0)))
    }

    fn put(&mut self, id: BufferId, lines: Vec<Line>) {
        if let Some(buffer) = self.buffers.get_mut(&id) {
            buffer.lines = lines;
        }
    }

    fn describe(&self, id: BufferId) -> String {
        let label = self.buffers.get(&id).map_or("", |b| b.label.as_str());
        format!("buffer {} `{label}`", id.0)
    }

    /// Bytes `offset..offset + length` of a buffer, all multiples of 4.
    fn range(
        &self,
        id: BufferId,
        offset: u64,
        length: u64,
    ) -> Result<std::ops::Range<usize>, BackendError> {
        let buffer = self.buffer(id)?;
        let end = offset.checked_add(length).filter(|&end| {
            end <= buffer.bytes && offset.is_multiple_of(4) && length.is_multiple_of(4)
        });
        let Some(end) = end else {
            return Err(bad_handle(format_args!(
                "{length} bytes at {offset} of {}, which has {} bytes: not a range of whole words within it",
                self.describe(id),
                buffer.bytes,
            )));
        };
        Ok(offset as usize..end as usize)
    }

    /// The words of a tensor within its buffer's storage.
    fn words(
        &self,
        tensor: Tensor,
        lines: &[Line],
    ) -> Result<std::ops::Range<usize>, BackendError> {
        let held = lines.len() as u64 * Line::BYTES;
        let limit = self.buffer(tensor.buffer)?.bytes.min(held);
        let bytes = tensor.row_bytes().checked_mul(u64::from(tensor.rows));
        let end = bytes
            .and_then(|bytes| tensor.offset.checked_add(bytes))
            .filter(|&end| end <= limit && tensor.offset.is_multiple_of(4));
        let Some(end) = end else {
            return Err(bad_handle(format_args!(
                "{tensor} at byte {} does not lie in {}, which has {limit} bytes",
                tensor.offset,
                self.describe(tensor.buffer),
            )));
        };
        Ok(tensor.offset as usize / 4..end as usize / 4)
    }
}
