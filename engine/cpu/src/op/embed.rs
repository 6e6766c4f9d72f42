use longwave_contract::BackendError;
use longwave_contract::op::Embed;
use pulp::{Arch, Simd, WithSimd};

use super::descriptor;
use crate::memory::Memory;
use crate::row::{CHUNK, Matrix};

/// See [`Embed`].
pub(super) fn run(op: &Embed, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| {
        let count = memory.count(Embed::NAME, op.count, op.rows.rows)?;
        let (table, rows) = (memory.matrix(op.table)?, memory.matrix(op.rows)?);
        out.for_each_row(count, |row, out| {
            let token = descriptor(&rows, row).token as usize;
            if token >= table.rows() {
                out.fill(0.0);
                return;
            }
            Arch::new().dispatch(Lookup { table, token, out });
        });
        Ok(())
    })
}

/// One row of the table.
struct Lookup<'a> {
    table: Matrix<'a>,
    token: usize,
    out: &'a mut [f32],
}

impl WithSimd for Lookup<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (index, out) in self.out.chunks_mut(CHUNK).enumerate() {
            self.table.dequantise(simd, self.token, index * CHUNK, out);
        }
    }
}
