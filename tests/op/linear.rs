//! Cases of `linear`.

use longwave_contract::op::Linear;
use longwave_tests::rig::Values;

use super::{Case, matmul_cases};

pub(super) fn cases() -> Vec<Case> {
    matmul_cases(|rig, dtype, (rows, count, n, k)| {
        Ok(Linear {
            a: rig.f32(rows, k, Values::Flat)?,
            weight: rig.weight(dtype, n, k)?,
            bias: if n % 3 == 0 {
                Some(rig.f32(1, n, Values::Flat)?)
            } else {
                None
            },
            count: rig.count(count)?,
            // What was there before must not show.
            out: rig.f32(rows, n, Values::Constant(60_000.0))?,
        }
        .into())
    })
}
