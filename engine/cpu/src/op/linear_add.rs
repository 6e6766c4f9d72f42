use longwave_contract::BackendError;
use longwave_contract::op::LinearAdd;

use crate::matmul;
use crate::memory::Memory;
use crate::plan::Kernel;

/// See [`LinearAdd`].
pub(super) fn run(op: &LinearAdd, kernel: Kernel, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.x, |memory, mut x| {
        let count = memory.count(LinearAdd::NAME, op.count, op.x.rows)?;
        let bias = op.bias.map(|bias| memory.matrix(bias)).transpose()?;
        let input = memory.matrix(op.a)?.gather(count);
        let weights = [memory.matrix(op.weight)?];
        let product = matmul::multiply(kernel, &weights, &input, count);
        let width = op.x.cols as usize;
        x.for_each_row(count, |row, x| {
            let mut sum = vec![0.0; width];
            product.copy_row(0, row, &mut sum);
            if let Some(bias) = bias {
                add(&mut sum, bias.f32s(0));
            }
            add(x, &sum);
        });
        Ok(())
    })
}

fn add(to: &mut [f32], what: &[f32]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += what;
    }
}
