use longwave_contract::BackendError;
use longwave_contract::op::GateUpSilu;
use pulp::Arch;

use crate::exp::exp;
use crate::matmul;
use crate::memory::Memory;
use crate::norm::normalised_rows;
use crate::plan::Kernel;

/// See [`GateUpSilu`].
pub(super) fn run(
    op: &GateUpSilu,
    kernel: Kernel,
    memory: &mut Memory,
) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| {
        let count = memory.count(GateUpSilu::NAME, op.count, op.x.rows)?;
        let (x, norm) = (memory.matrix(op.x)?, memory.matrix(op.norm)?.f32s(0));
        let input = normalised_rows(count, |row| x.f32s(row), norm, op.epsilon);
        let weights = [memory.matrix(op.w_gate)?, memory.matrix(op.w_up)?];
        let product = matmul::multiply(kernel, &weights, &input, count);
        let inner = op.out.cols as usize;
        out.for_each_row(count, |row, out| {
            let mut gate = vec![0.0; inner];
            product.copy_row(0, row, &mut gate);
            product.copy_row(1, row, out);
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (out, &gate) in out.iter_mut().zip(&gate) {
                        *out *= gate / (1.0 + exp(-gate));
                    }
                },
            );
        });
        Ok(())
    })
}
