//! What the rungs of the test ladder share: backends to test, operands to test them with, and models.
//!
//! | rung | question | truth | needs |
//! | --- | --- | --- | --- |
//! | 0 `structure`, `layout`, `properties` | are kernels valid, do layouts agree, do checks and allocators hold? | naga, the contract | nothing |
//! | 0 `cuda` | does every CUDA kernel compile? | the compiler | NVRTC |
//! | 1 `conformance` | does a backend keep what the trait says of buffers, plans and threads? | the contract, sums in f64 | for cuda and wgpu, a device |
//! | 1 `op` | does an op match on another backend? | the CPU reference | an adapter |
//! | 2 `trace` | which op of a real step diverges first? | the CPU reference | an adapter, a model |
//! | 3 `logits` | are the logits right? | golden files of an independent implementation | a model |
//! | 3 `hugging_face` | are they right for every architecture and scaling? | a forward pass in f64 | for wgpu, an adapter |
//! | 4 `end_to_end` | the same tokens, from the program as users call it? | golden files | a model |
//! | 4 `eval` | is dense attention no different from itself, and do results and pictures hold what they should? | dense attention | a model |
//!
//! A test that needs an adapter or a model that is not there shows as ignored, with the reason.

pub mod adapter;
pub mod golden;
pub mod latent;
pub mod model;
pub mod network;
pub mod program;
pub mod rig;
pub mod trial;
