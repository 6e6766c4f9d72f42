use longwave_contract::BackendError;
use longwave_contract::op::NormLinear;

use crate::error::misfit;
use crate::matmul;
use crate::memory::Memory;
use crate::norm::normalised_rows;
use crate::plan::Kernel;

/// See [`NormLinear`].
pub(super) fn run(
    op: &NormLinear,
    kernel: Kernel,
    memory: &mut Memory,
) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| {
        let count = memory.count(NormLinear::NAME, op.count, op.out.rows)?;
        let (x, norm) = (memory.matrix(op.x)?, memory.matrix(op.norm)?.f32s(0));
        let select = &memory.matrix(op.select)?.u32s(0)[..count];
        if let Some(row) = select.iter().find(|&&row| row as usize >= x.rows()) {
            let expected = format_args!("rows of x below {}", x.rows());
            return Err(misfit(NormLinear::NAME, "select", expected, row));
        }
        let selected = |row: usize| x.f32s(select[row] as usize);
        let input = normalised_rows(count, selected, norm, op.epsilon);
        let weights = [memory.matrix(op.weight)?];
        let product = matmul::multiply(kernel, &weights, &input, count);
        out.for_each_row(count, |row, out| product.copy_row(0, row, out));
        Ok(())
    })
}
