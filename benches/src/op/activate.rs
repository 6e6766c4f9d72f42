//! `activate`: bound by bytes.

use anyhow::Result;
use longwave_contract::kv::BLOCK;
use longwave_contract::op::{Activate, Activation};
use longwave_tests::rig::Values;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// Operations for an element that goes in: a quotient, an exponential, and what is made of them, all twice.
const EACH: f64 = 10.0;

/// Change and base in, the result out.
pub(super) fn work(op: &Activate, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    let bases = rows.min(op.base.rows.into());
    let moved = rows * (op.change.row_bytes() + op.out.row_bytes());
    Ok(Work {
        bytes: (moved + bases * op.base.row_bytes()) as f64,
        flops: EACH * rows as f64 * f64::from(op.change.cols),
    })
}

/// Inner layers of an encoder on the rows of some blocks: as published, half as wide again as a row, with SwiGLU; and with GELU, twice as wide.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (cols, rows) = (shapes.config.shape.cols(), shapes.new_blocks() * BLOCK);
    let widths = [
        (Activation::SwiGlu, "swiglu", cols / 2 * 3),
        (Activation::Gelu, "gelu", cols * 2),
    ];
    let case = |(activation, kind, width): (Activation, &str, u32)| {
        let name = format!("activate {rows} x {width} by {kind}");
        let inputs = activation.inputs(width).unwrap_or(width);
        Case::new(name, move |rig| {
            Ok(Activate {
                change: rig.f32(rows, inputs, Values::Flat)?,
                base: rig.f32(rows, inputs, Values::Flat)?,
                activation,
                count: rig.count(rows)?,
                out: rig.f32(rows, width, Values::Flat)?,
            })
        })
    };
    widths.into_iter().map(case).collect()
}
