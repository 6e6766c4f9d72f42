//! `linear_add`: a matrix, and an addition.

use anyhow::Result;
use longwave_contract::op::LinearAdd;
use longwave_tests::rig::Values;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// The matrix, and the rows that it is added to.
pub(super) fn work(op: &LinearAdd, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    Ok(Work::matmul(rows, op.a, &[op.weight]) + Work::moves(rows * op.x.row_bytes()))
}

/// What follows attention, and the end of the feed-forward layer.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (dtype, width) = (shapes.dtype, shapes.config.width);
    let inputs = [shapes.config.q_width(), shapes.config.inner];
    let of = |inputs: u32| {
        shapes.each_row_count(move |rows| {
            Case::new(
                format!("linear_add {rows} x {inputs} x {width}"),
                move |rig| {
                    Ok(LinearAdd {
                        a: rig.f32(rows, inputs, Values::Flat)?,
                        weight: rig.weight(dtype, width, inputs)?,
                        bias: None,
                        count: rig.count(rows)?,
                        x: rig.f32(rows, width, Values::Flat)?,
                    })
                },
            )
        })
    };
    inputs.into_iter().flat_map(of).collect()
}
