//! What every Longwave backend promises.
//!
//! A model records [`op`]s into a [`Recording`]; a backend prepares and runs it. This crate is the only thing that models, policies and
//! backends share: element types and row formats ([`DType`]), tensors as matrix views ([`Tensor`]), the closed list of ops ([`Op`]), the
//! paged-KV layout ([`kv`]), the [`Backend`] trait with its [`Caps`], and the tolerances within which two backends must agree
//! ([`Tolerance`], [`first_divergence`]).
//!
//! **Architecture invariant:** nothing in here computes an op or knows a device. It depends on bytemuck, half and thiserror only.

mod backend;
mod caps;
mod check;
mod divergence;
mod dtype;
pub mod kv;
pub mod op;
mod recording;
mod slab;
mod tensor;
mod tolerance;

pub use backend::{Allocation, Backend, BackendError, BufferDesc, PlanId, Ticket};
pub use caps::{Caps, CooperativeMatrix, DeviceKind};
pub use check::CheckError;
pub use divergence::{Agreement, Divergence, DivergenceError, Trace, first_divergence};
pub use dtype::{DType, RowFormat};
pub use op::{Access, Op, Operand};
pub use recording::Recording;
pub use slab::Slabs;
pub use tensor::{BufferId, Tensor};
pub use tolerance::{Excess, Tolerance};
