//! `qkv_rope_append`: three matrices, and a row of the cache.

use anyhow::Result;
use longwave_contract::kv::{KeySpace, PAGE, RowDesc};
use longwave_contract::op::QkvRopeAppend;
use longwave_runtime::model::Architecture;
use longwave_tests::rig::{Rig, Values};

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// The matrices, and the rows that go to the cache.
pub(super) fn work(op: &QkvRopeAppend, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    let matrices = Work::matmul(rows, op.x, &[op.w_q, op.w_k, op.w_v]);
    let staged = op.staged.map_or(0, |staged| staged.row_bytes());
    Ok(matrices + Work::moves(rows * (op.kv.row_bytes() + staged)))
}

/// As many rows as there are, with the biases and norms of the model's family.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (config, dtype) = (&shapes.config, shapes.dtype);
    let (row, width, q) = (config.shape, config.width, config.q_width());
    let (biased, normed) = match config.architecture {
        Architecture::Llama => (false, false),
        Architecture::Qwen2 => (true, false),
        Architecture::Qwen3 => (false, true),
    };
    let name = format!("x {width} x {}", q + 2 * row.width());
    shapes.each_row_count(|rows| {
        Case::new(format!("qkv_rope_append {rows} {name}"), move |rig| {
            let pages = rows.div_ceil(PAGE);
            let descs: Vec<RowDesc> = (0..)
                .zip(rig.permutation(pages * PAGE))
                .take(rows as usize)
                .map(|(position, slot)| RowDesc {
                    position,
                    slot,
                    ..RowDesc::default()
                })
                .collect();
            let bias =
                |rig: &mut Rig, cols| biased.then(|| rig.f32(1, cols, Values::Flat)).transpose();
            let norm = |rig: &mut Rig| normed.then(|| rig.norm(row.head_dim)).transpose();
            Ok(QkvRopeAppend {
                x: rig.f32(rows, width, Values::Flat)?,
                norm: rig.norm(width)?,
                epsilon: 1e-5,
                w_q: rig.weight(dtype, q, width)?,
                w_k: rig.weight(dtype, row.width(), width)?,
                w_v: rig.weight(dtype, row.width(), width)?,
                b_q: bias(rig, q)?,
                b_k: bias(rig, row.width())?,
                b_v: bias(rig, row.width())?,
                q_norm: norm(rig)?,
                k_norm: norm(rig)?,
                rope: rig.rope_table(row.head_dim, rows)?,
                rows: rig.rows(&descs)?,
                count: rig.count(rows)?,
                shape: row,
                space: KeySpace::Roped,
                q: rig.f32(rows, q, Values::Flat)?,
                kv: rig.cache(row, pages, &[], Values::Flat)?,
                staged: None,
            })
        })
    })
}
