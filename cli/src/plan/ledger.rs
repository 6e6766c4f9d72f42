//! A backend that has no device: it counts what is asked of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use longwave_contract::{
    Backend, BackendError, BufferDesc, BufferId, Caps, PlanId, Recording, Ticket,
};

/// Counts bytes of buffers as a device with these capabilities would hold them. What is written is forgotten, and zeros are read.
pub struct Ledger {
    caps: Caps,
    next: AtomicU32,
    bytes: AtomicU64,
    buffers: Mutex<HashMap<BufferId, u64>>,
}

impl Ledger {
    /// An empty one; no device says how much is free.
    pub fn new(caps: &Caps) -> Self {
        Ledger {
            caps: Caps {
                memory: None,
                ..caps.clone()
            },
            next: AtomicU32::new(1),
            bytes: AtomicU64::new(0),
            buffers: Mutex::default(),
        }
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Backend for Ledger {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn allocated(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId, BackendError> {
        let id = BufferId(self.number());
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.insert(id, desc.bytes);
        self.bytes.fetch_add(desc.bytes, Ordering::Relaxed);
        Ok(id)
    }

    fn free(&self, buffer: BufferId) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = buffers.remove(&buffer) {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn write(&self, _: BufferId, _: u64, _: &[u8]) -> Result<(), BackendError> {
        Ok(())
    }

    fn read(&self, _: BufferId, _: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        bytes.fill(0);
        Ok(())
    }

    fn copy(&self, _: (BufferId, u64), _: (BufferId, u64), _: u64) -> Result<(), BackendError> {
        Ok(())
    }

    fn prepare(&self, _: &Recording) -> Result<PlanId, BackendError> {
        Ok(PlanId(self.number()))
    }

    fn kernels(&self, _: PlanId) -> Vec<String> {
        Vec::new()
    }

    fn release(&self, _: PlanId) {}

    fn run(&self, _: PlanId) -> Result<Ticket, BackendError> {
        Ok(Ticket(u64::from(self.number())))
    }

    fn wait(&self, _: Ticket) -> Result<(), BackendError> {
        Ok(())
    }
}
