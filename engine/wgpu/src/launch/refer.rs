//! `refer`: references of all blocks first, since later blocks refer to those of earlier ones; then the nearest for each token in parts
//! of the candidates, into scratch 1; then the nearest of all, and what is left of it.

use longwave_contract::BackendError;
use longwave_contract::kv::BLOCK;
use longwave_contract::op::Refer;

use super::latent::latent_params;
use super::{Bound, Context, Dispatch, kernel, unsupported};

/// Quads of rows that a workgroup writes.
const STORERS: u32 = 64;
/// Workgroups of the search that keep a large device busy.
const BUSY: u32 = 512;
/// Parts of the candidates at most: 64 of a block for 131,072 tokens, a reference every 16 of them.
const SPLITS: u32 = 128;

/// Parts of the candidates of `blocks` blocks.
fn splits(blocks: u32) -> u32 {
    (BUSY / blocks.max(1)).clamp(1, SPLITS)
}

/// Pairs of a distance and an ordinal that a workgroup has room for.
const PAIRS: u32 = 1024;

/// Tokens whose nearest references a workgroup finds at once, where the parts of each have so many pairs.
fn together(pairs: u32) -> u32 {
    if pairs <= PAIRS / 4 { 4 } else { 1 }
}

/// # Errors
/// [`BackendError::Unsupported`] for more blocks than a grid has workgroups, and operands that exceed a binding.
pub(super) fn launch(op: &Refer, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let (name, shape) = (Refer::NAME, op.shape);
    let blocks = op.blocks.rows;
    if blocks > context.caps.workgroups_per_axis {
        return Err(unsupported(name, format!("{blocks} blocks")));
    }
    let tokens = u64::from(blocks) * u64::from(BLOCK);
    let references = u64::from(blocks) * u64::from(shape.references_per_block());
    let whole =
        |operand, tensor| Ok::<_, BackendError>((operand, context.whole(name, operand, tensor)?));
    let shared = [
        whole("staged", op.staged)?,
        ("blocks", Bound::Tensor(op.blocks)),
        ("count", Bound::Tensor(op.count)),
        whole("entries", op.entries)?,
        ("mean", Bound::Tensor(op.mean)),
        whole("latents", op.latents)?,
    ];
    let splits = splits(blocks);
    let neighbours = shape.references.map_or(0, |found| found.neighbours);
    let nearest = if neighbours <= 4 { 4 } else { 8 };
    let together = together(splits * neighbours);
    let places = tokens * u64::from(splits) * u64::from(neighbours);
    let found = ("found", context.scratch(name, 1, (places * 8).max(16))?);
    let dispatch =
        |stem, shared: &[_], more: &[(&'static str, Bound)], grid: [u32; 3], work: u64| {
            let kernel = kernel(stem, &[])?;
            let mut given = vec![("blocks", blocks.into())];
            if stem != "refer_store" {
                given.push(("splits", splits.into()));
            }
            if stem != "refer_search" {
                given.push(("x_groups", grid[0].into()));
            }
            if stem == "refer_residual" {
                given.push(("has_base", u32::from(op.base.is_some()).into()));
            }
            let overrides = match stem {
                "refer_search" => vec![("NEAREST", f64::from(nearest))],
                "refer_residual" => vec![
                    ("TOKENS", f64::from(together)),
                    ("NEIGHBOURS", f64::from(neighbours)),
                ],
                _ => Vec::new(),
            };
            Ok::<_, BackendError>(Dispatch {
                kernel,
                overrides,
                params: latent_params(kernel, &shape, &given)?,
                bindings: [shared, more].concat(),
                grid,
                work,
            })
        };
    let mut dispatches = Vec::new();
    let row = u64::from(shape.cols);
    if shape.references.is_some() {
        let quads = references * u64::from(shape.cols / 4);
        let grid = context.grid(name, quads.div_ceil(u64::from(STORERS)))?;
        dispatches.push(dispatch(
            "refer_store",
            &shared,
            &[],
            grid,
            references * row,
        )?);
        // How many candidates there are is known on the device only; those of a thousand blocks are a guess.
        let candidates = 1000 * u64::from(shape.references_per_block());
        let metric = ("metric", Bound::Tensor(op.metric));
        let work = tokens * candidates * row;
        let grid = [splits, blocks, 1];
        dispatches.push(dispatch(
            "refer_search",
            &shared,
            &[metric, found],
            grid,
            work,
        )?);
    }
    let base = match op.base {
        Some(base) => whole("base", base)?,
        // It is bound to be written, so it may not be an operand.
        None => ("base", context.scratch(name, 0, 16)?),
    };
    let results = [whole("residual", op.residual)?, base, found];
    let grid = context.grid(name, tokens / u64::from(together))?;
    let work = tokens * row * (1 + u64::from(neighbours));
    dispatches.push(dispatch("refer_residual", &shared, &results, grid, work)?);
    Ok(dispatches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_blocks_are_searched_in_many_parts() {
        assert_eq!(splits(1), 128);
        assert_eq!(splits(8), 64);
        assert_eq!(splits(64), 8);
        assert_eq!(splits(100_000), 1);
    }

    #[test]
    fn tokens_share_a_workgroup_where_their_parts_are_few() {
        assert_eq!(together(0), 4);
        assert_eq!(together(256), 4);
        assert_eq!(together(257), 1);
        assert_eq!(together(SPLITS * 8), 1);
    }
}
