//! Cases of `norm_linear`.

use longwave_contract::DType;
use longwave_contract::op::NormLinear;
use longwave_tests::rig::Values;

use super::{Case, matmul_cases};

pub(super) fn cases() -> Vec<Case> {
    matmul_cases(|rig, dtype, (selected, count, n, k)| {
        let rows = 2 * selected;
        let select: Vec<u32> = (0..selected).map(|_| rig.below(rows)).collect();
        Ok(NormLinear {
            x: rig.f32(
                rows,
                k,
                if k == 96 {
                    Values::Peaked
                } else {
                    Values::Flat
                },
            )?,
            select: rig.words(DType::U32, 1, selected, &select)?,
            norm: rig.norm(k)?,
            epsilon: 1e-6,
            weight: rig.weight(dtype, n, k)?,
            count: rig.count(count)?,
            out: rig.f32(selected, n, Values::Flat)?,
        }
        .into())
    })
}
