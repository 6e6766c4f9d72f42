//! `rope`: bound by bytes.

use anyhow::Result;
use longwave_contract::kv::PAGE;
use longwave_contract::op::{Rope, Tokens};
use longwave_tests::latent::layout;
use longwave_tests::rig::Values;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// Rows of f32 in, rows of f16 out.
pub(super) fn work(op: &Rope, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    Ok(Work::moves(rows * (op.x.row_bytes() + op.kv.row_bytes())))
}

/// The tokens of one sequence: all, as full layers restore them, and those that an observer chose.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let row = shapes.config.shape;
    shapes.each_restoration(|restored| {
        Case::new(format!("rope {restored}"), move |rig| {
            let (rows, listed) = (restored.rows, restored.listed);
            let layout = layout(rig, &[restored.sequence()]);
            Ok(Rope {
                x: rig.f32(rows, row.cols(), Values::Flat)?,
                tokens: match listed {
                    true => Tokens::Listed(layout.tokens(rig, rows)?),
                    false => Tokens::All,
                },
                stores: layout.stores(rig)?,
                count: rig.count(rows)?,
                pitch: rows,
                first: 0,
                k_norm: None,
                epsilon: 1e-5,
                rope: rig.rope_table(row.head_dim, restored.length)?,
                shape: row,
                kv: rig.cache(row, rows.div_ceil(PAGE), &[], Values::Flat)?,
            })
        })
    })
}
