use std::f64::consts::FRAC_1_SQRT_2;

use longwave_contract::BackendError;
use longwave_contract::op::{Activate, Activation};

use crate::memory::Memory;

/// See [`Activate`].
pub(super) fn run(op: &Activate, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| {
        let count = memory.count(Activate::NAME, op.count, op.out.rows)?;
        let (change, base) = (memory.matrix(op.change)?, memory.matrix(op.base)?);
        out.for_each_row(count, |row, out| {
            let change = change.f32s(row);
            let base = base.f32s(if base.rows() == 1 { 0 } else { row });
            let inputs = base.iter().zip(change);
            let inputs = inputs.map(|(&base, &change)| (f64::from(base), f64::from(change)));
            match op.activation {
                Activation::Gelu => {
                    for (out, (base, change)) in out.iter_mut().zip(inputs) {
                        *out = (gelu(base + change) - gelu(base)) as f32;
                    }
                }
                Activation::SwiGlu => {
                    let linear = inputs.clone().skip(out.len());
                    for ((out, gate), linear) in out.iter_mut().zip(inputs).zip(linear) {
                        let after = silu(gate.0 + gate.1) * (linear.0 + linear.1);
                        *out = (after - silu(gate.0) * linear.0) as f32;
                    }
                }
            }
        });
        Ok(())
    })
}

fn gelu(value: f64) -> f64 {
    0.5 * value * libm::erfc(-value * FRAC_1_SQRT_2)
}

fn silu(value: f64) -> f64 {
    value / (1.0 + (-value).exp())
}
