//! A backend that counts the memory of what is done through it, and on demand the time of each op.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use longwave_contract::{
    Backend, BackendError, BufferDesc, BufferId, Caps, PlanId, Recording, Ticket,
};

use crate::profile::{Profile, Tally};

/// One station's door to a backend that several share.
pub struct Meter {
    inner: Arc<dyn Backend>,
    /// Bytes of the buffers of all doors.
    all: Arc<AtomicU64>,
    held: Mutex<Held>,
    /// What plans were made of.
    recordings: Mutex<HashMap<PlanId, Recording>>,
    /// The time of each op, while it is taken; or why it cannot be.
    tally: Mutex<Option<Result<Tally>>>,
}

#[derive(Default)]
struct Held {
    buffers: HashMap<BufferId, u64>,
    bytes: u64,
    peak: u64,
}

impl Meter {
    /// A door; `all` is shared by those of one backend.
    pub fn new(inner: &Arc<dyn Backend>, all: &Arc<AtomicU64>) -> Self {
        Meter {
            inner: Arc::clone(inner),
            all: Arc::clone(all),
            held: Mutex::default(),
            recordings: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    /// Takes the time of each op of what is run until [`Meter::profile_end`].
    pub fn profile_begin(&self) {
        *locked(&self.tally) = Some(Ok(Tally::default()));
    }

    /// The time of each op since [`Meter::profile_begin`].
    ///
    /// # Errors
    /// The backend takes no time of single ops, or the tables of an op could not be read.
    pub fn profile_end(&self) -> Result<Profile> {
        let tally = locked(&self.tally).take();
        Ok(tally.unwrap_or_else(|| Ok(Tally::default()))?.profile())
    }

    /// Runs a plan op by op, when times are taken; whether they are.
    fn run_profiled(&self, plan: PlanId) -> Result<bool, BackendError> {
        let mut tally = locked(&self.tally);
        let Some(Ok(sum)) = &mut *tally else {
            return Ok(false);
        };
        let recordings = locked(&self.recordings);
        let Some(recording) = recordings.get(&plan) else {
            return Ok(false);
        };
        let times = match self.inner.profile(plan) {
            Ok(times) => times,
            Err(error @ BackendError::Unsupported { .. }) => {
                *tally = Some(Err(error.into()));
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let added = sum.add(recording, &times, &self.inner.kernels(plan), &*self.inner);
        if let Err(error) = added {
            *tally = Some(Err(error));
        }
        Ok(true)
    }

    /// The most bytes that were allocated on the device at any time, the buffers of other doors not counted: what the model, this station and the
    /// kernels' working memory, which all stations share, took.
    pub fn peak(&self) -> u64 {
        self.held().peak
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        locked(&self.held)
    }

    fn note(&self) {
        let mut held = self.held();
        let others = self.all.load(Ordering::Relaxed).saturating_sub(held.bytes);
        let now = self.inner.allocated().saturating_sub(others);
        held.peak = held.peak.max(now);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend for Meter {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn allocated(&self) -> u64 {
        self.inner.allocated()
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId, BackendError> {
        let buffer = self.inner.alloc(desc)?;
        let mut held = self.held();
        held.buffers.insert(buffer, desc.bytes);
        held.bytes += desc.bytes;
        drop(held);
        self.all.fetch_add(desc.bytes, Ordering::Relaxed);
        self.note();
        Ok(buffer)
    }

    fn free(&self, buffer: BufferId) {
        self.inner.free(buffer);
        let mut held = self.held();
        if let Some(bytes) = held.buffers.remove(&buffer) {
            held.bytes -= bytes;
            self.all.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write(buffer, offset, bytes)
    }

    fn read(&self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.inner.read(buffer, offset, bytes)
    }

    fn copy(
        &self,
        from: (BufferId, u64),
        to: (BufferId, u64),
        bytes: u64,
    ) -> Result<(), BackendError> {
        self.inner.copy(from, to, bytes)
    }

    fn prepare(&self, recording: &Recording) -> Result<PlanId, BackendError> {
        let plan = self.inner.prepare(recording)?;
        locked(&self.recordings).insert(plan, recording.clone());
        self.note();
        Ok(plan)
    }

    fn kernels(&self, plan: PlanId) -> Vec<String> {
        self.inner.kernels(plan)
    }

    fn release(&self, plan: PlanId) {
        self.inner.release(plan);
        locked(&self.recordings).remove(&plan);
    }

    fn run(&self, plan: PlanId) -> Result<Ticket, BackendError> {
        let ticket = match self.run_profiled(plan)? {
            // It has ended.
            true => Ticket(0),
            false => self.inner.run(plan)?,
        };
        self.note();
        Ok(ticket)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), BackendError> {
        self.inner.wait(ticket)
    }

    fn profile(&self, plan: PlanId) -> Result<Vec<u64>, BackendError> {
        self.inner.profile(plan)
    }
}

#[cfg(test)]
mod tests {
    use longwave_contract::{Allocation, DType};
    use longwave_tests::adapter;

    use super::*;

    #[test]
    fn a_door_counts_what_is_shared_and_its_own() -> anyhow::Result<()> {
        let inner = adapter::cpu();
        let bytes = |rows| BufferDesc::of("some", DType::F32, rows, 4);
        let shared = Allocation::new(&inner, &bytes(100))?;
        let all = Arc::default();
        let doors: Vec<Arc<Meter>> = (0..2).map(|_| Arc::new(Meter::new(&inner, &all))).collect();
        let backend = |door: usize| -> Arc<dyn Backend> { Arc::clone(&doors[door]) as _ };
        let first = Allocation::new(&backend(0), &bytes(12))?;
        let second = Allocation::new(&backend(1), &bytes(4))?;
        drop(first);
        let more = Allocation::new(&backend(0), &bytes(8))?;
        assert_eq!(doors[0].peak(), shared.bytes() + 192);
        assert_eq!(doors[1].peak(), shared.bytes() + second.bytes());
        assert_eq!(all.load(Ordering::Relaxed), second.bytes() + more.bytes());
        Ok(())
    }
}
