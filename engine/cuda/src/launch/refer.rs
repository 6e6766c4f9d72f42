//! `refer`: references of all blocks first, since later blocks refer to those of earlier ones; then the nearest for each token, in parts
//! of the candidates into scratch and then of all; then what is left of it.

use longwave_contract::BackendError;
use longwave_contract::kv::BLOCK;
use longwave_contract::op::Refer;

use super::latent::{EXACT_PART, latent_dispatch};
use super::{Argument, Context, Dispatch};

/// Warps of a block that stores references, each a part of a row.
const STORERS: u32 = 4;
/// Blocks of the search that a multiprocessor holds.
const RESIDENT: u32 = 4;
/// Parts of the candidates at most: 64 of a block for 131,072 tokens, a reference every 16 of them.
const SPLITS: u32 = 128;

/// Parts of the candidates of `blocks` blocks, so that they keep the device busy.
fn splits(blocks: u32, processors: u32) -> u32 {
    (RESIDENT * processors / blocks.max(1)).clamp(1, SPLITS)
}

/// # Errors
/// None but defects.
pub(super) fn launch(op: &Refer, context: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let shape = op.shape;
    let blocks = op.blocks.rows;
    let sources = [
        ("blocks", op.blocks.into()),
        ("count", op.count.into()),
        ("entries", op.entries.into()),
        ("latents", op.latents.into()),
        ("capacity", blocks.into()),
    ];
    let rows = [("staged", op.staged.into()), ("mean", op.mean.into())];
    let dispatch = |name, more: &[&[(&'static str, Argument)]], grid| {
        let given = [&sources[..], &more.concat()].concat();
        latent_dispatch(name, &[], &shape, &given, grid)
    };
    let mut dispatches = Vec::new();
    if let Some(references) = shape.references {
        let parts = blocks * shape.references_per_block() * shape.cols.div_ceil(EXACT_PART);
        dispatches.push(dispatch("refer_store", &[&rows], parts.div_ceil(STORERS))?);
        let splits = splits(blocks, context.processors);
        let places = u64::from(blocks * BLOCK) * u64::from(splits * references.neighbours);
        let found = [
            (
                "found",
                Argument::Scratch {
                    index: 0,
                    bytes: places * 8,
                },
            ),
            ("splits", splits.into()),
        ];
        let metric = [("metric", op.metric.into())];
        dispatches.push(dispatch(
            "refer_search",
            &[&rows, &metric, &found],
            blocks * splits,
        )?);
        dispatches.push(dispatch("refer_merge", &[&found], blocks)?);
    }
    let results = [("residual", op.residual.into()), ("base", op.base.into())];
    dispatches.push(dispatch(
        "refer_residual",
        &[&rows, &results],
        blocks * BLOCK,
    )?);
    Ok(dispatches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_blocks_are_searched_in_many_parts() {
        assert_eq!(splits(1, 132), 128);
        assert_eq!(splits(16, 132), 33);
        assert_eq!(splits(64, 132), 8);
        assert_eq!(splits(100_000, 132), 1);
    }
}
