//! `restore`: a matrix, and what is read of blocks.

use anyhow::Result;
use longwave_contract::kv::PAGE;
use longwave_contract::op::{Restore, Tokens};
use longwave_contract::{BufferId, DType};
use longwave_tests::latent::{components, layout};
use longwave_tests::rig::Values;

use super::shapes::Restored;
use super::{Case, Shapes, unpack};
use crate::work::{Tables, Work};

/// What its parts do, less the rows and latents that pass between them.
pub(super) fn work(op: &Restore, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    let (parts, product, rope) = op.parts(BufferId(0), BufferId(0));
    let product = product.map_or(Work::default(), |product| Work {
        bytes: product.weight.bytes() as f64,
        ..Work::matmul(rows, product.a, &[product.weight])
    });
    Ok(unpack::stored(&parts, tables)? + product + Work::moves(rows * rope.kv.row_bytes()))
}

/// The tokens of one sequence: all, as full layers restore them, those that an observer chose, and of those as many as a step usually misses.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let named = shapes.each_restoration(|restored| case(shapes, restored, restored.rows));
    let chosen = shapes.each_restoration(|restored| case(shapes, restored, restored.rows / 10 * 3));
    // All tokens come first, of which none are missing.
    named
        .into_iter()
        .chain(chosen.into_iter().skip(1))
        .collect()
}

/// `count` of the rows that there is room for: where that is not all of them, they are named one by one.
fn case(shapes: &Shapes, restored: Restored, count: u32) -> Case {
    let (latent, row, rows) = (shapes.latent(), shapes.config.shape, restored.rows);
    let misses = count < rows;
    let name = match misses {
        true => format!("restore {count} missing, {restored}"),
        false => format!("restore {restored}"),
    };
    Case::new(name, move |rig| {
        let layout = layout(rig, &[restored.sequence()]);
        let (descs, components) = components(rig, &latent)?;
        let slots = rows.next_multiple_of(PAGE);
        Ok(Restore {
            tokens: match restored.listed {
                true if misses => Tokens::Missing(layout.misses(rig, slots, rows)?),
                true => Tokens::Listed(layout.tokens(rig, rows)?),
                false => Tokens::All,
            },
            stores: layout.stores(rig)?,
            entries: rig.entries(&layout.entries)?,
            count: rig.count(count)?,
            pitch: if misses { 1 } else { rows },
            first: 0,
            rows,
            raw: rig.cache(row, layout.pages, &layout.used, Values::Flat)?,
            mean: rig.f32(1, latent.cols, Values::Flat)?,
            components,
            latent,
            latents: layout.records(rig, &latent, &descs)?,
            decoder: Some(rig.weight(DType::F16, latent.cols, latent.rank)?),
            k_norm: None,
            epsilon: 1e-5,
            rope: rig.rope_table(row.head_dim, restored.length)?,
            shape: row,
            kv: rig.cache(row, slots / PAGE, &[], Values::Flat)?,
        })
    })
}
