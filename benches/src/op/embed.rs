//! `embed`: bound by bytes.

use anyhow::Result;
use longwave_contract::Tensor;
use longwave_contract::kv::RowDesc;
use longwave_contract::op::Embed;
use longwave_tests::rig::{Rig, Values};

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// A row of the table in, one of f32 out.
pub(super) fn work(op: &Embed, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    Ok(Work::moves(
        rows * (op.table.row_bytes() + op.out.row_bytes()),
    ))
}

/// A table of this many rows is as good as a larger one: few of them are read.
const TABLE: u32 = 16_384;

/// As many rows as there are.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (dtype, width) = (shapes.dtype, shapes.config.width);
    let vocabulary = shapes.config.vocabulary.min(TABLE);
    shapes.each_row_count(|rows| {
        Case::new(format!("embed {rows} x {width}"), move |rig| {
            Ok(Embed {
                table: rig.weight(dtype, vocabulary, width)?,
                rows: rows_of_tokens(rig, rows, vocabulary)?,
                count: rig.count(rows)?,
                out: rig.f32(rows, width, Values::Flat)?,
            })
        })
    })
}

fn rows_of_tokens(rig: &mut Rig, rows: u32, vocabulary: u32) -> Result<Tensor> {
    let descs: Vec<RowDesc> = (0..rows)
        .map(|_| RowDesc {
            token: rig.below(vocabulary),
            ..RowDesc::default()
        })
        .collect();
    rig.rows(&descs)
}
