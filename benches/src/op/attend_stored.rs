//! `attend_stored`: bound by the bytes of codes.

use anyhow::Result;
use longwave_contract::kv::{BLOCK, LatentShape, RowDesc, ScaleRule, StoreDesc};
use longwave_contract::op::AttendStored;
use longwave_tests::latent::{layout, plain};
use longwave_tests::rig::Values;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// Rows at most: each has a sequence of its own.
const ROWS: u32 = 16;

/// What the stores of rows show, once for each row; a score and a weighted sum for each token of it.
pub(super) fn work(op: &AttendStored, tables: &Tables<'_>) -> Result<Work> {
    let rows: Vec<RowDesc> = tables.rows(op.rows, tables.count(op.count)?)?;
    let stores: Vec<StoreDesc> = tables.rows(op.stores, op.stores.rows.into())?;
    let (mut raw, mut coded) = (0u64, 0u64);
    for row in &rows {
        let Some(store) = stores.get(row.view as usize) else {
            continue;
        };
        let visible = store.length.min(row.position.saturating_add(1));
        let after = visible.saturating_sub(store.sinks).min(store.compressed);
        coded += u64::from(after);
        raw += u64::from(visible - after);
    }
    let stored = raw as f64 * op.raw.row_bytes() as f64;
    let queries = rows.len() as u64 * (op.q.row_bytes() + op.out.row_bytes());
    Ok(Work {
        bytes: stored + coded as f64 * op.latent.bytes_per_token() + queries as f64,
        flops: 4.0 * (raw + coded) as f64 * f64::from(op.q.cols),
    })
}

/// Rows over a sequence each, in 8 and in 4 bits, for heads that can be rotated whole.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (row, q) = (shapes.config.shape, shapes.config.q_width());
    if !row.head_dim.is_power_of_two() || row.head_dim < AttendStored::GROUP {
        return Vec::new();
    }
    let cols = row.cols();
    let (depth, sinks) = (shapes.depth, shapes.sinks());
    let case = |rows: u32, bits: u32| {
        let blocks = shapes.stored_blocks();
        let name = format!("attend_stored {rows} over {depth}, {bits} bits");
        Case::new(name, move |rig| {
            let tail = depth - sinks - blocks * BLOCK;
            let layout = layout(rig, &vec![(sinks, blocks, tail, 0); rows as usize]);
            let latent = LatentShape {
                code_bits: bits * cols,
                exact_f16: true,
                ..plain(cols, cols, ScaleRule::Symmetric, AttendStored::GROUP)
            };
            let describe = |view| RowDesc {
                view,
                position: depth - 1,
                ..RowDesc::default()
            };
            let descs: Vec<RowDesc> = (0..rows).map(describe).collect();
            Ok(AttendStored {
                q: rig.f32(rows, q, Values::Flat)?,
                rows: rig.rows(&descs)?,
                count: rig.count(rows)?,
                stores: layout.stores(rig)?,
                entries: rig.entries(&layout.entries)?,
                raw: rig.cache(row, layout.pages, &layout.used, Values::Flat)?,
                mean: rig.f32(1, cols, Values::Flat)?,
                latent,
                latents: layout.coded(rig, &latent, 0.02)?,
                k_norm: None,
                epsilon: 1e-5,
                rope: rig.rope_table(row.head_dim, depth)?,
                shape: row,
                scale: 1.0 / (row.head_dim as f32).sqrt(),
                longest: depth,
                out: rig.f32(rows, q, Values::Flat)?,
            })
        })
    };
    let rows = shapes.rows.iter().filter(|&&rows| rows <= ROWS);
    rows.flat_map(|&rows| [8, 4].map(|bits| case(rows, bits)))
        .collect()
}
