//! `unpack`: bound by bytes.

use anyhow::Result;
use longwave_contract::kv::{RowShape, StoreDesc};
use longwave_contract::op::{Tokens, Unpack};
use longwave_tests::latent::{components, layout};
use longwave_tests::rig::Values;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// Stored rows in, and bases and latents out.
pub(super) fn work(op: &Unpack, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    let written = op.out.row_bytes() + op.z.map_or(0, |z| z.row_bytes());
    Ok(stored(op, tables)? + Work::moves(rows * written))
}

/// Stored rows in, each as many bytes as the mean of its sequence. Rows that are named one by one read their references each for itself.
pub(super) fn stored(op: &Unpack, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    let stores: Vec<StoreDesc> = tables.rows(op.stores, op.stores.rows.into())?;
    let (mut raw, mut coded) = (0u64, 0u64);
    for store in &stores {
        coded += u64::from(store.compressed);
        raw += u64::from(store.length.saturating_sub(store.compressed));
    }
    let neighbours = op.shape.references.map_or(0, |shape| shape.neighbours);
    let apart = match op.tokens {
        Tokens::All => 0.0,
        Tokens::Listed(_) | Tokens::Missing(_) => {
            f64::from(4 * neighbours * op.shape.exact_words())
        }
    };
    let code = op.shape.bytes_per_token() + apart;
    let stored = raw as f64 * op.raw.row_bytes() as f64 + coded as f64 * code;
    let each = stored / (raw + coded).max(1) as f64;
    Ok(Work {
        bytes: rows as f64 * each,
        flops: rows as f64 * f64::from(op.shape.cols) * f64::from(1 + neighbours),
    })
}

/// The tokens of one sequence: all, as full layers restore them, and those that an observer chose.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let shape = shapes.latent();
    let row: RowShape = shapes.config.shape;
    shapes.each_restoration(|restored| {
        Case::new(format!("unpack {restored}"), move |rig| {
            let (rows, listed) = (restored.rows, restored.listed);
            let layout = layout(rig, &[restored.sequence()]);
            let (descs, components) = components(rig, &shape)?;
            Ok(Unpack {
                tokens: match listed {
                    true => Tokens::Listed(layout.tokens(rig, rows)?),
                    false => Tokens::All,
                },
                stores: layout.stores(rig)?,
                entries: rig.entries(&layout.entries)?,
                count: rig.count(rows)?,
                pitch: rows,
                first: 0,
                raw: rig.cache(row, layout.pages, &layout.used, Values::Flat)?,
                mean: rig.f32(1, shape.cols, Values::Flat)?,
                components,
                shape,
                latents: layout.records(rig, &shape, &descs)?,
                z: Some(rig.f32(rows, shape.rank, Values::Flat)?),
                out: rig.f32(rows, shape.cols, Values::Flat)?,
            })
        })
    })
}
