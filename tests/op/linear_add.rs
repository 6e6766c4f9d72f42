//! Cases of `linear_add`.

use longwave_contract::op::LinearAdd;
use longwave_tests::rig::Values;

use super::{Case, matmul_cases};

pub(super) fn cases() -> Vec<Case> {
    matmul_cases(|rig, dtype, (rows, count, n, k)| {
        let values = if k == 96 {
            Values::Peaked
        } else {
            Values::Flat
        };
        Ok(LinearAdd {
            a: rig.f32(rows, k, values)?,
            weight: rig.weight(dtype, n, k)?,
            bias: if n % 2 == 0 {
                Some(rig.f32(1, n, Values::Flat)?)
            } else {
                None
            },
            count: rig.count(count)?,
            x: rig.f32(rows, n, Values::Flat)?,
        }
        .into())
    })
}
