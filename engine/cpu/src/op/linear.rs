use longwave_contract::BackendError;
use longwave_contract::op::Linear;

use crate::matmul;
use crate::memory::Memory;
use crate::plan::Kernel;

/// See [`Linear`].
pub(super) fn run(op: &Linear, kernel: Kernel, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| {
        let count = memory.count(Linear::NAME, op.count, op.out.rows)?;
        let bias = op.bias.map(|bias| memory.matrix(bias)).transpose()?;
        let input = memory.matrix(op.a)?.gather(count);
        let weights = [memory.matrix(op.weight)?];
        let product = matmul::multiply(kernel, &weights, &input, count);
        out.for_each_row(count, |row, out| {
            product.copy_row(0, row, out);
            if let Some(bias) = bias {
                for (out, bias) in out.iter_mut().zip(bias.f32s(0)) {
                    *out += bias;
                }
            }
        });
        Ok(())
    })
}
