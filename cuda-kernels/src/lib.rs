//! The CUDA kernels of Longwave, the twins of the shaders: one `.cu` file beside each `.wgsl` file, with the same header and the same
//! local names.
//!
//! So far there is only the KV layout that they will share ([`LAYOUT`]). Kernels are compiled at run time by NVRTC, so this crate builds
//! without CUDA, and holds text only.
//!
//! **Architecture invariant:** a leaf. Nothing in here knows a device or the contract.

/// The paged-KV layout of the contract as a CUDA header: a test compares its structs with those in Rust.
pub const LAYOUT: &str = include_str!("../part/layout.cuh");
