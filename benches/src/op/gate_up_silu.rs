//! `gate_up_silu`: two matrices of one input.

use anyhow::Result;
use longwave_contract::op::GateUpSilu;
use longwave_tests::rig::Values;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// Both matrices; of their results only the product is written.
pub(super) fn work(op: &GateUpSilu, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    let written_once = rows * op.out.row_bytes();
    let both = Work::matmul(rows, op.x, &[op.w_gate, op.w_up]);
    Ok(Work {
        bytes: both.bytes - written_once as f64,
        ..both
    })
}

/// As many rows as there are.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (dtype, width, inner) = (shapes.dtype, shapes.config.width, shapes.config.inner);
    shapes.each_row_count(|rows| {
        Case::new(
            format!("gate_up_silu {rows} x {width} x {inner}"),
            move |rig| {
                Ok(GateUpSilu {
                    x: rig.f32(rows, width, Values::Flat)?,
                    norm: rig.norm(width)?,
                    epsilon: 1e-5,
                    w_gate: rig.weight(dtype, inner, width)?,
                    w_up: rig.weight(dtype, inner, width)?,
                    count: rig.count(rows)?,
                    out: rig.f32(rows, inner, Values::Flat)?,
                })
            },
        )
    })
}
