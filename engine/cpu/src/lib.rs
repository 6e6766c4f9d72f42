//! The CPU backend: the readable reference of every op, and quick enough to serve where there is no GPU.
//!
//! [`CpuBackend`] walks a recording op by op; each op is one file under `op/`, with the stem that it has everywhere. Long sums are made of
//! f32 sums of at most 64 products (256 on a processor without vectors), which are added up in f64 or in a short tree; softmax sums and
//! mean squares are f64. Inner loops are vectorised by `pulp`'s dispatch at run time, and rayon spreads blocks of outputs over threads. What
//! a result is depends neither on the number of threads nor on where pages lie.
//!
//! **Architecture invariant:** no `unsafe`, no kernel for a special processor, and nothing from device memory is trusted: a slot, view,
//! entry or pick that is out of range gives an error that names the operand; a token beyond the table gives zeros, as its op says.

#[cfg(target_endian = "big")]
compile_error!("longwave-cpu reads packed little-endian words as they lie in memory");

mod backend;
mod error;
mod exp;
mod host;
mod latent;
mod layout;
mod line;
mod matmul;
mod memory;
mod norm;
mod op;
mod plan;
mod rotation;
mod row;
#[cfg(test)]
mod tests;
mod tile;
mod vigil;

pub use backend::CpuBackend;
