//! `attend`, rows one by one: a block for a split of a row's view and up to eight query heads of a key head.

use longwave_contract::BackendError;
use longwave_contract::op::Attend;

use super::attend::{Costs, arguments, splits};
use super::{AttendKernel, Context, Dispatch, dispatch, unsupported};

/// Warps of a block, and the tokens that these take at a time, 16 each.
const WARPS: u32 = 8;
const STEP: u32 = 16 * WARPS;
/// Elements of a head that there are kernels for.
const DIMS: [(u32, &str); 4] = [(64, "64"), (128, "128"), (256, "256"), (512, "512")];
/// A second look at what was summed takes as long as half a step, and as one more for every 32 splits.
const COSTS: Costs = Costs {
    block: 0.5,
    merge: 1.0 / 32.0,
};
/// Blocks at most where most rows may be served elsewhere: those have blocks that leave at once.
const LONE_BLOCKS: u64 = 4096;

/// The kernel's element count of a head.
fn dim(head_dim: u32) -> Option<(u32, &'static str)> {
    DIMS.into_iter().find(|(dim, _)| head_dim <= *dim)
}

/// Bytes of shared memory: what its warps have under way.
fn shared(dim: u32) -> u32 {
    WARPS * if dim > 128 { 8 << 10 } else { 12 << 10 }
}

/// # Errors
/// [`BackendError::Unsupported`] for heads beyond 512 elements, and grids that are too large.
pub(super) fn launch(op: &Attend, lone: bool, context: &Context) -> Result<Dispatch, BackendError> {
    let name = Attend::NAME;
    let head_dim = op.shape.head_dim;
    let (dim, dim_name) = dim(head_dim).ok_or_else(|| unsupported(name, "long heads"))?;
    let group = op.heads() / op.shape.kv_heads;
    let (queries, queries_name) = if group <= 4 { (4, "4") } else { (8, "8") };
    let blocks = group.div_ceil(queries);
    let of_row = u64::from(op.shape.kv_heads) * u64::from(blocks);
    let x = u64::from(op.q.rows) * of_row;
    if x > i32::MAX as u64 {
        return Err(unsupported(name, format!("a grid of {x} blocks")));
    }
    // No more rows than views are without a neighbour of the same view, but for odd cases.
    let rows = match lone {
        true => op.q.rows.min(op.views.rows),
        false => op.q.rows,
    };
    // One block for each processor, with half of its registers: blocks of the kernels before and after lie beside it, one each as well. Processors
    // without one would take two of the next kernel's, and leave others none.
    let processors = u64::from(context.processors);
    let steps = op.longest.div_ceil(STEP);
    let chosen = match lone && x > LONE_BLOCKS / 2 {
        true => 1,
        false => splits(u64::from(rows) * of_row, processors, steps, &COSTS),
    };
    let splits = match context.force.attend {
        Some(AttendKernel::Head) => 1,
        Some(AttendKernel::Split) if x <= LONE_BLOCKS => chosen.max(2),
        _ if lone => chosen.min((LONE_BLOCKS / x).max(1) as u32),
        _ => chosen,
    };
    let mut arguments = arguments(op, splits, lone);
    arguments.extend([
        ("blocks", blocks.into()),
        ("slots", op.kv.rows.into()),
        ("view_rows", op.views.rows.into()),
        ("entry_count", op.entries.cols.into()),
    ]);
    let grid = (x * u64::from(splits)).max(processors) as u32;
    let launch = dispatch(
        "attend_split",
        &[
            ("DIM", dim_name),
            ("WHOLE", if head_dim == dim { "true" } else { "false" }),
            ("QUERIES", queries_name),
        ],
        &arguments,
        [grid, 1, 1],
    )?;
    Ok(Dispatch {
        shared: shared(dim),
        ..launch
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_of_the_warps_that_the_kernel_has() {
        assert_eq!(super::super::threads("attend_split"), 32 * WARPS);
    }

    #[test]
    fn every_head_has_a_kernel_that_holds_it() {
        for head_dim in (8..=512).step_by(8) {
            let (dim, name) = dim(head_dim).expect("a kernel");
            assert!(dim >= head_dim && name.parse() == Ok(dim));
        }
        assert_eq!(dim(520), None);
        assert_eq!(dim(80), Some((128, "128")));
    }
}
