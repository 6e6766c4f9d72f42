//! The backends that are held against the CPU reference.

use std::sync::{Arc, OnceLock};

use longwave_contract::Backend;
use longwave_cpu::CpuBackend;
use longwave_cuda::{CudaBackend, CudaOptions};
use longwave_wgpu::{WgpuBackend, WgpuOptions};

/// A backend under test, or why there is none.
pub type Subject = Result<Arc<dyn Backend>, String>;

/// The CPU reference.
pub fn cpu() -> Arc<dyn Backend> {
    Arc::new(CpuBackend::new())
}

/// Every backend by its name: the reference itself, and those that are held against it.
pub fn all() -> [(&'static str, Subject); 3] {
    let [cuda, wgpu] = others();
    [("cpu", Ok(cpu())), cuda, wgpu]
}

/// The backends that are held against the CPU reference.
pub fn others() -> [(&'static str, Subject); 2] {
    [("cuda", cuda()), ("wgpu", wgpu())]
}

/// CUDA on the first device that can be used.
pub fn cuda() -> Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| cuda_with(|_| ())).clone()
}

/// CUDA on the same device with other options.
pub fn cuda_with(change: impl FnOnce(&mut CudaOptions)) -> Subject {
    let mut options = CudaOptions::default();
    change(&mut options);
    match CudaBackend::open(&options) {
        Ok(backend) => Ok(Arc::new(backend)),
        Err(error) => Err(error.to_string()),
    }
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
