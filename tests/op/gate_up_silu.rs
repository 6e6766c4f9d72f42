//! Cases of `gate_up_silu`.

use longwave_contract::op::GateUpSilu;
use longwave_tests::rig::Values;

use super::{Case, matmul_cases};

pub(super) fn cases() -> Vec<Case> {
    matmul_cases(|rig, dtype, (rows, count, n, k)| {
        let values = if k == 96 {
            Values::Peaked
        } else {
            Values::Flat
        };
        Ok(GateUpSilu {
            x: rig.f32(rows, k, values)?,
            norm: rig.norm(k)?,
            epsilon: 1e-5,
            w_gate: rig.weight(dtype, n, k)?,
            w_up: rig.weight(dtype, n, k)?,
            count: rig.count(count)?,
            out: rig.f32(rows, n, Values::Flat)?,
        }
        .into())
    })
}
