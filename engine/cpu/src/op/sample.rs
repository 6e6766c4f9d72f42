use longwave_contract::BackendError;
use longwave_contract::op::{Sample, SampleDesc, choose_token};

use crate::error::misfit;
use crate::memory::Memory;

/// See [`Sample`].
pub(super) fn run(op: &Sample, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| {
        let count = memory.count(Sample::NAME, op.count, op.logits.rows)?;
        let (logits, samplings) = (memory.matrix(op.logits)?, memory.matrix(op.samplings)?);
        let listed = memory.matrix(op.recent)?.u32s(0);
        for row in 0..count {
            let mut desc: SampleDesc =
                *bytemuck::from_bytes(bytemuck::cast_slice(samplings.u32s(row)));
            if !op.draws {
                desc.rate = 0.0;
            }
            let (first, number) = (desc.recent_first as usize, desc.recent as usize);
            let end = first.saturating_add(number);
            let Some(recent) = listed.get(first..end) else {
                let expected = format_args!("at least {end} tokens, which row {row} names");
                return Err(misfit(Sample::NAME, "recent", expected, listed.len()));
            };
            let logits = logits.f32s(row);
            out.u32s_mut(0)[row] = choose_token(logits, &desc, recent);
        }
        Ok(())
    })
}
