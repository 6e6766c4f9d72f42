//! Longwave ops as WGSL compute shaders, through wgpu on Vulkan, Metal and DX12.
//!
//! [`WgpuBackend`] implements [`longwave_contract::Backend`]. What it is made of:
//!
//! | file | holds |
//! | --- | --- |
//! | `device` | adapters, the choice of one, the open device with its [`Caps`](longwave_contract::Caps) |
//! | `budget` | how much memory is free |
//! | `fault` | errors that the driver reports outside of a call |
//! | `memory` | accounted device buffers, and the slabs of each [`BufferId`](longwave_contract::BufferId) |
//! | `staging` | the way of bytes between host and device |
//! | `pipeline` | compiled kernels |
//! | `kernel_cache` | compiled kernels on disk |
//! | `plan` | prepared recordings: pipelines, bind groups, parameters, shared scratch memory |
//! | `profile` | the time of each op of a plan, by time stamps |
//! | `submission` | what is under way, in which order it ends, and how much work one submission may hold |
//! | `launch` | one file per op: which kernel, which numbers, which grid |
//!
//! **Architecture invariant:** kernels and their bindings come from `longwave-shaders`, choices from `launch`; nothing else here knows an op.

mod backend;
mod budget;
mod device;
mod fault;
mod kernel_cache;
mod launch;
mod memory;
mod pipeline;
mod plan;
mod profile;
mod staging;
mod submission;

pub use backend::{WgpuBackend, WgpuOptions};
pub use device::{DeviceInfo, devices};
pub use launch::{AttendKernel, Force, MatmulKernel};

/// The name of the backend in capabilities and errors.
const BACKEND: &str = "wgpu";
