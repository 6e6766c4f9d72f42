//! `refer`: a search among references.

use anyhow::Result;
use longwave_contract::DType;
use longwave_contract::kv::{BLOCK, BlockDesc, LatentShape};
use longwave_contract::op::Refer;
use longwave_tests::latent::{POISON, halves, references, weights};
use longwave_tests::rig::{Rig, Values};

use super::{Case, Shapes, entries_of_blocks, new_blocks};
use crate::work::{Tables, Work};

/// The rows of blocks in, their residuals out, and the distance of each to all references before it.
pub(super) fn work(op: &Refer, tables: &Tables<'_>) -> Result<Work> {
    let blocks: Vec<BlockDesc> = tables.rows(op.blocks, tables.count(op.count)?)?;
    let (each, exact) = (op.shape.references_per_block(), op.shape.exact_words());
    let searched = blocks
        .iter()
        .map(|block| u64::from(block.sinks) + u64::from(each) * (u64::from(block.index) + 1));
    let (most, all) = (searched.clone().max().unwrap_or(0), searched.sum::<u64>());
    let rows = blocks.len() as u64 * u64::from(BLOCK);
    let references = if each == 0 { 0 } else { most };
    let bases = op.base.map_or(0, |base| base.row_bytes());
    let moved = rows * (op.staged.row_bytes() + op.residual.row_bytes() + bases);
    let pairs = if each == 0 {
        0
    } else {
        all * u64::from(op.shape.coded())
    };
    Ok(Work {
        bytes: (moved + references * 4 * u64::from(exact)) as f64,
        flops: 2.0 * pairs as f64 * f64::from(op.shape.cols),
    })
}

/// The last blocks of one sequence find references among all.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (shape, sinks) = (shapes.latent(), shapes.sinks());
    let (old, new) = (shapes.old_blocks(), shapes.new_blocks());
    let name = format!("refer {new} blocks after {old}");
    let case = Case::new(name, move |rig| refer(rig, shape, sinks, (old, new)));
    vec![case.compared_by(move |rig| refer(rig, shape, sinks, (old.min(1), 1)))]
}

/// `new` blocks after `old` ones.
fn refer(rig: &mut Rig, shape: LatentShape, sinks: u32, (old, new): (u32, u32)) -> Result<Refer> {
    let (all, cols) = (old + new, shape.cols);
    let mut records = vec![POISON; (all * shape.words()) as usize];
    for record in records
        .chunks_exact_mut(shape.words() as usize)
        .take(old as usize)
    {
        record.copy_from_slice(&references(rig, &shape));
    }
    Ok(Refer {
        staged: halves(rig, sinks + new * BLOCK, cols)?,
        blocks: rig.words(
            DType::U32,
            new,
            BlockDesc::WORDS,
            bytemuck::cast_slice(&new_blocks(sinks, old, new)),
        )?,
        count: rig.count(new)?,
        entries: rig.entries(&entries_of_blocks(all))?,
        mean: rig.f32(1, cols, Values::Flat)?,
        metric: weights(rig, cols)?,
        shape,
        latents: rig.words(DType::U32, all, shape.words(), &records)?,
        residual: rig.f32(new * BLOCK, cols, Values::Flat)?,
        base: None,
    })
}
