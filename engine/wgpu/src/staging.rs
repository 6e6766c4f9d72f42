//! The way of bytes between host and device.
//!
//! Large writes go through a ring of fixed size, so that loading a model holds no second copy of it on the host. Reads come through one
//! buffer that grows up to the same size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use longwave_contract::BackendError;

use crate::device::Gpu;
use crate::fault::internal;
use crate::memory::{Account, DeviceBuffer, Piece};
use crate::submission::Submissions;

/// Bytes of a chunk of the ring, and of the largest read in one piece.
const CHUNK: u64 = 16 << 20;
/// Chunks of the ring.
const CHUNKS: usize = 4;
/// Writes below this size are queued by wgpu itself, which copies them, or go through a buffer of their own while commands are open.
const SMALL: u64 = 64 << 10;
/// Bytes of small writes of a submission, and of the buffer through which they go.
const QUEUED: u64 = 1 << 20;
/// The smallest buffer for reads.
const READ: u64 = 64 << 10;

/// State of a mapping, as its callback leaves it.
const WAITING: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

struct Chunk {
    buffer: DeviceBuffer,
    /// The submission that last copied out of it.
    serial: u64,
    mapping: Arc<AtomicU8>,
}

/// Staging buffers of a backend.
#[derive(Default)]
pub(crate) struct Staging {
    ring: Vec<Chunk>,
    turn: usize,
    /// What small writes go through while commands wait to be submitted, which must not see them; and how much was written before which submission.
    upload: Option<DeviceBuffer>,
    queued: (u64, u64),
    read: Option<DeviceBuffer>,
    bounce: Option<DeviceBuffer>,
}

/// What staging works with.
pub(crate) struct Transfer<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) account: &'a Arc<Account>,
    pub(crate) submissions: &'a mut Submissions,
}

impl Staging {
    /// Writes bytes to the pieces that make up their target. They are taken before this returns.
    ///
    /// # Errors
    /// Device errors, and no memory for the ring.
    pub(crate) fn write(
        &mut self,
        with: &mut Transfer<'_>,
        target: &[Piece<'_>],
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let mut rest = bytes;
        let small = (bytes.len() as u64) < SMALL;
        for batch in batches(target, CHUNK) {
            let total: u64 = batch.iter().map(|piece| piece.bytes).sum();
            let Some((now, later)) = rest.split_at_checked(total as usize) else {
                return Err(internal("fewer bytes than their target"));
            };
            rest = later;
            if small {
                self.queue(with, &batch, now)?;
            } else {
                self.write_chunk(with, &batch, now)?;
            }
        }
        Ok(())
    }

    fn queue(
        &mut self,
        with: &mut Transfer<'_>,
        batch: &[Piece<'_>],
        mut bytes: &[u8],
    ) -> Result<(), BackendError> {
        let total = bytes.len() as u64;
        if self.queued.0 == with.submissions.last() && self.queued.1 + total > QUEUED {
            // An empty submission where there is nothing else: what is queued is a copy in host memory.
            with.submissions.encoder(with.gpu);
            with.submissions.flush(with.gpu)?;
        }
        if self.queued.0 != with.submissions.last() {
            self.queued = (with.submissions.last(), 0);
        }
        for piece in batch {
            let (now, later) = bytes.split_at(piece.bytes as usize);
            let upload = match with.submissions.is_open() {
                true => self.upload(with)?,
                false => None,
            };
            if let Some(upload) = upload {
                let at = self.queued.1;
                with.gpu.queue.write_buffer(&upload, at, now);
                let encoder = with.submissions.encoder(with.gpu);
                encoder.copy_buffer_to_buffer(&upload, at, piece.buffer, piece.offset, piece.bytes);
            } else {
                with.gpu.queue.write_buffer(piece.buffer, piece.offset, now);
            }
            bytes = later;
            self.queued.1 += piece.bytes;
        }
        with.gpu.faults.check()
    }

    /// The buffer of small writes, through which they go while commands are open, since wgpu writes before all commands of a submission. Where
    /// there is no room for it, the commands are submitted, and none are open any more.
    fn upload(&mut self, with: &mut Transfer<'_>) -> Result<Option<wgpu::Buffer>, BackendError> {
        if self.upload.is_none() {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let label = "staging for small writes";
            match DeviceBuffer::new(with.gpu, with.account, label, QUEUED, usage, false) {
                Ok(made) => self.upload = Some(made),
                Err(BackendError::OutOfMemory { .. }) => {
                    with.submissions.flush(with.gpu)?;
                    self.queued = (with.submissions.last(), 0);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.upload.as_ref().map(|buffer| buffer.raw.clone()))
    }

    fn write_chunk(
        &mut self,
        with: &mut Transfer<'_>,
        batch: &[Piece<'_>],
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let chunk = self.next_chunk(with)?;
        let raw = &chunk.buffer.raw;
        let refused = |error: wgpu::MapRangeError| internal(error.to_string());
        {
            let mut view = raw
                .get_mapped_range_mut(0..bytes.len() as u64)
                .map_err(refused)?;
            view.copy_from_slice(bytes);
        }
        // Until the copy is under way and the next mapping asked for, the chunk cannot be written; should that fail, it is replaced.
        chunk.mapping = Arc::new(AtomicU8::new(FAILED));
        raw.unmap();
        let encoder = with.submissions.encoder(with.gpu);
        let mut at = 0;
        for piece in batch {
            encoder.copy_buffer_to_buffer(raw, at, piece.buffer, piece.offset, piece.bytes);
            at += piece.bytes;
        }
        chunk.serial = with.submissions.flush(with.gpu)?;
        chunk.mapping = map(raw, wgpu::MapMode::Write, raw.size());
        Ok(())
    }

    /// A chunk that the host can write: a new one while the ring is not full, then the one that was used longest ago.
    fn next_chunk(&mut self, with: &mut Transfer<'_>) -> Result<&mut Chunk, BackendError> {
        let place = if self.ring.len() < CHUNKS {
            // Commands that wait hold the buffers that they name.
            with.submissions.flush(with.gpu)?;
            let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
            let buffer = DeviceBuffer::new(
                with.gpu,
                with.account,
                "staging for writes",
                CHUNK,
                usage,
                true,
            )?;
            self.ring.push(Chunk {
                buffer,
                serial: 0,
                mapping: Arc::new(AtomicU8::new(MAPPED)),
            });
            self.ring.len() - 1
        } else {
            let turn = self.turn;
            self.turn = (turn + 1) % CHUNKS;
            turn
        };
        let missing = || internal("the staging ring is empty");
        let chunk = self.ring.get(place).ok_or_else(missing)?;
        if let Err(error) = mapped(with, chunk.serial, &chunk.mapping) {
            // A chunk whose mapping failed is of no more use.
            self.ring.remove(place);
            return Err(error);
        }
        self.ring.get_mut(place).ok_or_else(missing)
    }

    /// Reads the pieces of a source.
    ///
    /// # Errors
    /// Device errors, and whatever an earlier submission failed with.
    pub(crate) fn read(
        &mut self,
        with: &mut Transfer<'_>,
        source: &[Piece<'_>],
        bytes: &mut [u8],
    ) -> Result<(), BackendError> {
        let mut rest = bytes;
        for batch in batches(source, CHUNK) {
            let total: u64 = batch.iter().map(|piece| piece.bytes).sum();
            let Some((now, later)) = rest.split_at_mut_checked(total as usize) else {
                return Err(internal("more bytes than there is room for"));
            };
            rest = later;
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let buffer = grown(self.read.take(), with, "staging for reads", total, usage)?;
            let encoder = with.submissions.encoder(with.gpu);
            let mut at = 0;
            for piece in &batch {
                encoder.copy_buffer_to_buffer(
                    piece.buffer,
                    piece.offset,
                    &buffer.raw,
                    at,
                    piece.bytes,
                );
                at += piece.bytes;
            }
            let serial = with.submissions.flush(with.gpu)?;
            let mapping = map(&buffer.raw, wgpu::MapMode::Read, total);
            mapped(with, serial, &mapping)?;
            {
                let refused = |error: wgpu::MapRangeError| internal(error.to_string());
                let view = buffer.raw.get_mapped_range(0..total).map_err(refused)?;
                now.copy_from_slice(&view);
            }
            buffer.raw.unmap();
            // Kept only when all went well: after an error it may still be mapped.
            self.read = Some(buffer);
        }
        Ok(())
    }

    /// Copies between pieces on the device; both sides hold as many bytes, and they do not overlap.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn copy(
        &mut self,
        with: &mut Transfer<'_>,
        source: &[Piece<'_>],
        target: &[Piece<'_>],
    ) -> Result<(), BackendError> {
        let pairs = pairs(source, target);
        if pairs.is_empty() {
            return Ok(());
        }
        // wgpu copies within a buffer only by way of another.
        let within = pairs.iter().filter(|(from, to)| from.buffer == to.buffer);
        let largest = within.map(|(from, _)| from.bytes.min(CHUNK)).max();
        if let Some(bytes) = largest {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            self.bounce = Some(grown(
                self.bounce.take(),
                with,
                "staging for copies",
                bytes,
                usage,
            )?);
        }
        let encoder = with.submissions.encoder(with.gpu);
        for (from, to) in pairs {
            match &self.bounce {
                Some(bounce) if from.buffer == to.buffer => {
                    for start in (0..from.bytes).step_by(CHUNK as usize) {
                        let bytes = (from.bytes - start).min(CHUNK);
                        let (source, target) = (from.offset + start, to.offset + start);
                        encoder.copy_buffer_to_buffer(from.buffer, source, &bounce.raw, 0, bytes);
                        encoder.copy_buffer_to_buffer(&bounce.raw, 0, to.buffer, target, bytes);
                    }
                }
                _ => encoder.copy_buffer_to_buffer(
                    from.buffer,
                    from.offset,
                    to.buffer,
                    to.offset,
                    from.bytes,
                ),
            }
        }
        Ok(())
    }
}

/// A buffer of at least `bytes`: the one there is where it is large enough. Sizes are powers of two up to [`CHUNK`].
fn grown(
    there: Option<DeviceBuffer>,
    with: &mut Transfer<'_>,
    label: &str,
    bytes: u64,
    usage: wgpu::BufferUsages,
) -> Result<DeviceBuffer, BackendError> {
    match there {
        Some(buffer) if buffer.size() >= bytes => Ok(buffer),
        there => {
            drop(there);
            // Commands that wait hold the buffers that they name.
            with.submissions.flush(with.gpu)?;
            let size = bytes.next_power_of_two().clamp(READ, CHUNK);
            DeviceBuffer::new(with.gpu, with.account, label, size, usage, false)
        }
    }
}

/// Asks for a mapping of the first `bytes`; the state changes when a wait has seen the buffer's last submission end.
fn map(buffer: &wgpu::Buffer, mode: wgpu::MapMode, bytes: u64) -> Arc<AtomicU8> {
    let state = Arc::new(AtomicU8::new(WAITING));
    let left = Arc::clone(&state);
    buffer.map_async(mode, 0..bytes, move |outcome| {
        let outcome = if outcome.is_ok() { MAPPED } else { FAILED };
        left.store(outcome, Ordering::Release);
    });
    state
}

/// Waits for a mapping.
fn mapped(with: &mut Transfer<'_>, serial: u64, mapping: &AtomicU8) -> Result<(), BackendError> {
    if mapping.load(Ordering::Acquire) == WAITING {
        with.submissions.wait(with.gpu, serial)?;
    }
    if mapping.load(Ordering::Acquire) == WAITING {
        // The submission had been waited for before the mapping was asked for.
        with.gpu.wait(None)?;
    }
    match mapping.load(Ordering::Acquire) {
        MAPPED => Ok(()),
        _ => {
            with.gpu.faults.check()?;
            Err(internal("a staging buffer could not be mapped"))
        }
    }
}

/// Cuts pieces into batches of at most `limit` bytes.
fn batches<'a>(pieces: &[Piece<'a>], limit: u64) -> Vec<Vec<Piece<'a>>> {
    let mut batches = Vec::new();
    let (mut batch, mut room) = (Vec::new(), limit);
    for piece in pieces {
        let mut rest = *piece;
        while rest.bytes > 0 {
            let bytes = rest.bytes.min(room);
            batch.push(Piece { bytes, ..rest });
            rest.offset += bytes;
            rest.bytes -= bytes;
            room -= bytes;
            if room == 0 {
                batches.push(std::mem::take(&mut batch));
                room = limit;
            }
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Cuts two lists of pieces at each other's borders.
fn pairs<'a>(source: &[Piece<'a>], target: &[Piece<'a>]) -> Vec<(Piece<'a>, Piece<'a>)> {
    let mut pairs = Vec::new();
    let (mut sources, mut targets) = (source.iter().copied(), target.iter().copied());
    let (mut from, mut to) = (sources.next(), targets.next());
    while let (Some(source), Some(target)) = (&mut from, &mut to) {
        let bytes = source.bytes.min(target.bytes);
        if bytes > 0 {
            pairs.push((Piece { bytes, ..*source }, Piece { bytes, ..*target }));
        }
        for side in [source, target] {
            side.offset += bytes;
            side.bytes -= bytes;
        }
        if from.is_some_and(|piece| piece.bytes == 0) {
            from = sources.next();
        }
        if to.is_some_and(|piece| piece.bytes == 0) {
            to = targets.next();
        }
    }
    pairs
}
