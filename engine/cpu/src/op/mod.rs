//! The ops, one file each.

mod activate;
mod attend;
mod attend_stored;
mod embed;
mod gate_up_silu;
mod linear;
mod linear_add;
mod norm_linear;
mod observe;
mod pack;
mod qkv_rope_append;
mod refer;
mod reside;
mod restore;
mod rope;
mod sample;
mod select;
mod store;
mod unpack;
mod view;

use bytemuck::from_bytes;
use longwave_contract::kv::RowDesc;
use longwave_contract::{BackendError, Op};

use crate::matmul;
use crate::memory::Memory;
use crate::plan::Kernel;
use crate::row::Matrix;

/// The kernel for an op, from its shapes.
pub(crate) fn select(op: &Op) -> Kernel {
    match op {
        Op::Embed(_) => Kernel::Gather,
        Op::QkvRopeAppend(op) => matmul::select(op.x),
        Op::Attend(op) => attend::select(op),
        Op::Observe(_) | Op::AttendStored(_) => Kernel::Stream,
        Op::Select(_) | Op::Reside(_) | Op::Sample(_) => Kernel::Rank,
        Op::Refer(_) => Kernel::Gemm,
        Op::Linear(op) => matmul::select(op.out),
        Op::Activate(_) | Op::Pack(_) | Op::Unpack(_) | Op::Rope(_) => Kernel::Gather,
        Op::Restore(op) => restore::select(op),
        Op::LinearAdd(op) => matmul::select(op.x),
        Op::GateUpSilu(op) => matmul::select(op.x),
        Op::NormLinear(op) => matmul::select(op.out),
    }
}

/// Computes an op.
pub(crate) fn run(op: &Op, kernel: Kernel, memory: &mut Memory) -> Result<(), BackendError> {
    match op {
        Op::Embed(op) => embed::run(op, memory),
        Op::QkvRopeAppend(op) => qkv_rope_append::run(op, kernel, memory),
        Op::Attend(op) => attend::run(op, kernel, memory),
        Op::AttendStored(op) => attend_stored::run(op, memory),
        Op::Observe(op) => observe::run(op, memory),
        Op::Select(op) => select::run(op, memory),
        Op::Reside(op) => reside::run(op, memory),
        Op::Refer(op) => refer::run(op, memory),
        Op::Linear(op) => linear::run(op, kernel, memory),
        Op::Activate(op) => activate::run(op, memory),
        Op::Pack(op) => pack::run(op, memory),
        Op::Unpack(op) => unpack::run(op, memory),
        Op::Rope(op) => rope::run(op, memory),
        Op::Restore(op) => restore::run(op, kernel, memory),
        Op::LinearAdd(op) => linear_add::run(op, kernel, memory),
        Op::GateUpSilu(op) => gate_up_silu::run(op, kernel, memory),
        Op::NormLinear(op) => norm_linear::run(op, kernel, memory),
        Op::Sample(op) => sample::run(op, memory),
    }
}

/// Row descriptor `index` of a rows tensor.
fn descriptor(rows: &Matrix<'_>, index: usize) -> RowDesc {
    *from_bytes(bytemuck::cast_slice(rows.u32s(index)))
}
