//! Longwave ops as CUDA kernels on NVIDIA GPUs.
//!
//! [`CudaBackend`] implements [`longwave_contract::Backend`]. The driver's library and the compiler of kernels are opened at run time, so the crate
//! builds and starts where neither is there; [`devices`] says what is missing. What it is made of:
//!
//! | file | holds |
//! | --- | --- |
//! | `device` | devices, the choice of one, its [`Caps`](longwave_contract::Caps) |
//! | `driver` | the driver's calls |
//! | `library` | where libraries of the toolkit are looked for |
//! | `compiler` | NVRTC |
//! | `fault` | what the driver's answers mean |
//! | `memory` | accounted device memory, and the address of each [`BufferId`](longwave_contract::BufferId) |
//! | `staging` | the way of bytes between host and device |
//! | `pipeline` | compiled kernels |
//! | `kernel_cache` | compiled kernels on disk |
//! | `product` | cuBLASLt |
//! | `plan` | prepared recordings: arguments, shared scratch memory, captured graphs |
//! | `profile` | the time of each op of a plan, by time stamps |
//! | `submission` | what is under way, in which order it ends |
//! | `launch` | one file per op: which kernel, which numbers, which grid |
//!
//! **Architecture invariant:** kernels and their parameters come from `longwave-cuda-kernels`, choices from `launch`; nothing else here knows an op.

mod backend;
mod compiler;
mod device;
mod driver;
mod fault;
mod kernel_cache;
mod launch;
mod library;
mod lines;
mod memory;
mod pipeline;
mod plan;
mod product;
mod profile;
mod staging;
mod submission;

pub use backend::{CudaBackend, CudaOptions};
pub use compiler::Compiler;
pub use device::{DeviceInfo, choose, devices, free_memory};
pub use launch::{AttendKernel, Force, MatmulKernel};

/// The name of the backend in capabilities and errors.
const BACKEND: &str = "cuda";
