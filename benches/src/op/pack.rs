//! `pack`: bound by bytes.

use anyhow::Result;
use longwave_contract::DType;
use longwave_contract::kv::{BLOCK, BlockDesc};
use longwave_contract::op::Pack;
use longwave_tests::latent::{POISON, components, halves, weights};
use longwave_tests::rig::Values;

use super::{Case, Shapes, entries_of_blocks, new_blocks};
use crate::work::{Tables, Work};

/// Latents and residuals in, blocks out.
pub(super) fn work(op: &Pack, tables: &Tables<'_>) -> Result<Work> {
    let blocks = tables.count(op.count)?;
    let rows = u64::from(BLOCK) * (op.z.row_bytes() + op.residual.row_bytes());
    Ok(Work::moves(blocks * (rows + op.latents.row_bytes())))
}

/// The blocks of a prompt that are compressed at a time.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (shape, sinks, new) = (shapes.latent(), shapes.sinks(), shapes.new_blocks());
    let cols = shape.cols;
    vec![Case::new(
        format!("pack {new} blocks of {cols}"),
        move |rig| {
            let words = vec![POISON; (new * shape.words()) as usize];
            Ok(Pack {
                z: rig.f32(new * BLOCK, shape.rank, Values::Flat)?,
                residual: rig.f32(new * BLOCK, cols, Values::Flat)?,
                staged: halves(rig, sinks + new * BLOCK, cols)?,
                blocks: rig.words(
                    DType::U32,
                    new,
                    BlockDesc::WORDS,
                    bytemuck::cast_slice(&new_blocks(sinks, 0, new)),
                )?,
                count: rig.count(new)?,
                entries: rig.entries(&entries_of_blocks(new))?,
                mean: rig.f32(1, cols, Values::Flat)?,
                metric: weights(rig, cols)?,
                components: components(rig, &shape)?.1,
                energy: weights(rig, shape.rank)?,
                shape,
                latents: rig.words(DType::U32, new, shape.words(), &words)?,
            })
        },
    )]
}
