//! `norm_linear`: the largest matrix of a model.

use anyhow::Result;
use longwave_contract::DType;
use longwave_contract::op::NormLinear;
use longwave_tests::rig::Values;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// The matrix.
pub(super) fn work(op: &NormLinear, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    Ok(Work::matmul(rows, op.x, &[op.weight]))
}

/// The logits of one row.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (dtype, width, vocabulary) = (shapes.dtype, shapes.config.width, shapes.config.vocabulary);
    let name = format!("norm_linear 1 x {width} x {vocabulary}");
    vec![Case::new(name, move |rig| {
        Ok(NormLinear {
            x: rig.f32(1, width, Values::Flat)?,
            select: rig.words(DType::U32, 1, 1, &[0])?,
            norm: rig.norm(width)?,
            epsilon: 1e-5,
            weight: rig.weight(dtype, vocabulary, width)?,
            count: rig.count(1)?,
            out: rig.f32(1, vocabulary, Values::Flat)?,
        })
    })]
}
