//! `linear`: a matrix.

use anyhow::Result;
use longwave_contract::DType;
use longwave_contract::kv::BLOCK;
use longwave_contract::op::Linear;
use longwave_tests::rig::Values;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// The matrix.
pub(super) fn work(op: &Linear, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    Ok(Work::matmul(rows, op.a, &[op.weight]))
}

/// A codec's matrix on the rows of some blocks.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (cols, rows) = (shapes.config.shape.cols(), shapes.new_blocks() * BLOCK);
    let name = format!("linear {rows} x {cols} x {cols}");
    vec![Case::new(name, move |rig| {
        Ok(Linear {
            a: rig.f32(rows, cols, Values::Flat)?,
            weight: rig.weight(DType::F16, cols, cols)?,
            bias: None,
            count: rig.count(rows)?,
            out: rig.f32(rows, cols, Values::Flat)?,
        })
    })]
}
