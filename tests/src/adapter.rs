//! The backends that are held against the CPU reference.

use std::sync::{Arc, OnceLock};

use longwave_contract::Backend;
use longwave_cpu::CpuBackend;
use longwave_wgpu::{WgpuBackend, WgpuOptions};

/// A backend under test, or why there is none.
pub type Subject = Result<Arc<dyn Backend>, String>;

/// The CPU reference.
pub fn cpu() -> Arc<dyn Backend> {
    Arc::new(CpuBackend::new())
}

/// wgpu on the best adapter, a software one where there is no other. `LONGWAVE_TEST_DEVICE` names another.
pub fn wgpu() -> Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| wgpu_with(|_| ())).clone()
}

/// wgpu on the same adapter with other options: forced kernels, small slabs, a memory limit.
pub fn wgpu_with(change: impl FnOnce(&mut WgpuOptions)) -> Subject {
    let mut options = WgpuOptions {
        device: std::env::var("LONGWAVE_TEST_DEVICE").ok(),
        allow_software: true,
        ..Default::default()
    };
    change(&mut options);
    match WgpuBackend::open(&options) {
        Ok(backend) => Ok(Arc::new(backend)),
        Err(error) => Err(format!("no wgpu adapter: {error}")),
    }
}
