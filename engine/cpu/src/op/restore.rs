use longwave_contract::op::Restore;
use longwave_contract::{BackendError, BufferDesc, BufferId, DType, Tensor};

use super::{linear_add, rope, unpack};
use crate::matmul;
use crate::memory::Memory;
use crate::plan::Kernel;

/// The kernel of the product, where there is one.
pub(super) fn select(op: &Restore) -> Kernel {
    let (_, product, _) = op.parts(op.kv.buffer, op.kv.buffer);
    product.map_or(Kernel::Gather, |product| matmul::select(product.x))
}

/// See [`Restore`]: its parts in turn, so that the results are theirs to the bit.
pub(super) fn run(op: &Restore, kernel: Kernel, memory: &mut Memory) -> Result<(), BackendError> {
    let (unpack, _, _) = op.parts(op.kv.buffer, op.kv.buffer);
    let x = working(memory, Some(unpack.out))?;
    let result = working(memory, unpack.z).and_then(|z| {
        let result = run_parts(op, kernel, memory, z, x);
        memory.free(z);
        result
    });
    memory.free(x);
    result
}

fn run_parts(
    op: &Restore,
    kernel: Kernel,
    memory: &mut Memory,
    z: BufferId,
    x: BufferId,
) -> Result<(), BackendError> {
    let (unpack, product, rope) = op.parts(z, x);
    unpack::run(&unpack, memory)?;
    if let Some(product) = product {
        linear_add::run(&product, kernel, memory)?;
    }
    rope::run(&rope, memory)
}

/// Memory for a tensor while the op runs.
fn working(memory: &mut Memory, tensor: Option<Tensor>) -> Result<BufferId, BackendError> {
    let (rows, cols) = tensor.map_or((0, 0), |tensor| (tensor.rows, tensor.cols));
    let label = "working memory of restore";
    memory.alloc(&BufferDesc::of(label, DType::F32, rows, cols))
}
