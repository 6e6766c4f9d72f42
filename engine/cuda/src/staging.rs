//! The way of bytes between host and device: through pinned memory, in pieces.

use longwave_contract::BackendError;

use crate::driver::{Event, Gpu, Pinned};

/// Bytes of a half: large enough that the bus is busy, small enough to be had anywhere.
const HALF: usize = 4 << 20;
/// Writes begin at multiples of this.
const ALIGN: usize = 256;

/// Two halves that writes fill in turn, and that reads use when nothing is under way.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    halves: Option<[Half; 2]>,
    /// The half that is being filled, and how far it is.
    current: usize,
    filled: usize,
}

#[derive(Debug)]
struct Half {
    memory: Pinned,
    /// Happens when the device has read what the half held.
    read: Event,
}

impl Half {
    fn new(gpu: &Gpu) -> Result<Self, BackendError> {
        let half = Half {
            memory: Pinned::new(HALF)?,
            read: gpu.event(false)?,
        };
        gpu.record(&half.read, false)?;
        Ok(half)
    }
}

impl Staging {
    fn halves(&mut self, gpu: &Gpu) -> Result<&mut [Half; 2], BackendError> {
        if self.halves.is_none() {
            self.halves = Some([Half::new(gpu)?, Half::new(gpu)?]);
        }
        let missing = || crate::fault::internal("there is no staging memory");
        self.halves.as_mut().ok_or_else(missing)
    }

    /// Copies bytes to the device. The bytes may be used again when this returns; the copy happens in its place on the stream.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn write(
        &mut self,
        gpu: &Gpu,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let mut done = 0;
        while done < bytes.len() {
            if self.filled >= HALF {
                let (current, next) = (self.current, 1 - self.current);
                let halves = self.halves(gpu)?;
                gpu.record(&halves[current].read, false)?;
                gpu.wait(&halves[next].read)?;
                (self.current, self.filled) = (next, 0);
            }
            let (current, filled) = (self.current, self.filled);
            let take = (bytes.len() - done).min(HALF - filled);
            let memory = self.halves(gpu)?[current].memory.bytes();
            let piece = &mut memory[filled..filled + take];
            piece.copy_from_slice(&bytes[done..done + take]);
            gpu.upload(address + done as u64, piece)?;
            done += take;
            self.filled = (filled + take).next_multiple_of(ALIGN);
        }
        Ok(())
    }

    /// Copies bytes from the device, after all that was asked for before.
    ///
    /// # Errors
    /// Device errors, of this and of what ran before.
    pub(crate) fn read(
        &mut self,
        gpu: &Gpu,
        address: u64,
        bytes: &mut [u8],
    ) -> Result<(), BackendError> {
        if bytes.is_empty() {
            // Nothing is waited for, so the device may still be reading what was written last.
            return Ok(());
        }
        let current = self.current;
        let mut done = 0;
        for piece in bytes.chunks_mut(HALF) {
            // What the half holds was read by the device before the copy into it, which the stream orders.
            let memory = &mut self.halves(gpu)?[current].memory.bytes()[..piece.len()];
            gpu.download(address + done, memory)?;
            piece.copy_from_slice(memory);
            done += piece.len() as u64;
        }
        // All writes have been read by now.
        self.filled = 0;
        Ok(())
    }
}
