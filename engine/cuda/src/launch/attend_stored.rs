//! `attend_stored`: a block for up to eight query heads of a key head of a row and a split of its tokens.

use longwave_contract::BackendError;
use longwave_contract::op::AttendStored;

use super::attend::{Costs, PLACES, splits};
use super::latent::latent_dispatch;
use super::{Argument, Context, Dispatch, unsupported};

/// Warps of a block, and tokens of a warp's step.
const WARPS: u32 = 12;
const TOKENS: u32 = 16;
/// Steps of a warp that are under way: as many as find room.
const STAGES: [(u32, &str); 2] = [(3, "3"), (2, "2")];
/// What the kernel holds in shared memory beside those, at most.
const STATIC: u32 = 8 << 10;
/// Elements of a head that there are kernels for.
const DIMS: [u32; 2] = [64, 128];
/// A second look at what was summed takes about as long as a step of a unit.
const COSTS: Costs = Costs {
    block: 1.0,
    merge: 1.0 / 16.0,
};

/// Elements of the heads that the kernel serves where a block may have so many bytes of shared memory.
pub(crate) const fn heads(shared_memory: u32) -> &'static [u32] {
    const SMALL: u32 = room(DIMS[0], 8, STAGES[1].0, 1);
    const LARGE: u32 = room(DIMS[1], 8, STAGES[1].0, 1);
    match shared_memory {
        0..SMALL => &[],
        SMALL..LARGE => &[DIMS[0]],
        LARGE.. => &DIMS,
    }
}

/// Bytes of shared memory that a block asks for: the copies of its warps, and the angles of a unit of so many steps.
const fn shared(dim: u32, bits: u32, stages: u32, unit: u32) -> u32 {
    let codes = 2 * TOKENS * dim * bits / 8;
    let scales = 2 * TOKENS * dim / AttendStored::GROUP * 2;
    WARPS * stages * (codes + scales) + unit * TOKENS * dim / 2 * 8
}

/// Bytes that a block has in all.
const fn room(dim: u32, bits: u32, stages: u32, unit: u32) -> u32 {
    shared(dim, bits, stages, unit) + STATIC
}

/// Steps that are under way, and the value of the macro STAGES.
fn stages(op: &AttendStored, context: &Context) -> (u32, &'static str) {
    let (dim, bits) = (op.shape.head_dim, op.bits());
    let [most, least] = STAGES;
    match room(dim, bits, most.0, 4) <= context.shared_memory {
        true => most,
        false => least,
    }
}

/// Steps that a warp takes of a block of tokens before the queries are turned for others: many cost least, and few keep the device busy.
fn unit(op: &AttendStored, groups: u64, context: &Context) -> u32 {
    let (dim, bits) = (op.shape.head_dim, op.bits());
    let steps = op.longest.div_ceil(TOKENS);
    let (stages, _) = stages(op, context);
    let fits = |unit: &u32| room(dim, bits, stages, *unit) <= context.shared_memory;
    let fills = |unit: &u32| {
        let turns = u64::from(steps.div_ceil(WARPS * unit));
        groups * turns >= u64::from(context.processors)
    };
    let units = [8, 4, 2].into_iter().filter(fits);
    units.into_iter().find(fills).unwrap_or(1)
}

/// # Errors
/// [`BackendError::Unsupported`] for heads of other sizes than [`heads`] has.
pub(super) fn launch(op: &AttendStored, context: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let name = AttendStored::NAME;
    let dim = op.shape.head_dim;
    if !heads(context.shared_memory).contains(&dim) {
        return Err(unsupported(name, format!("stored heads of {dim} elements")));
    }
    let kv_heads = op.shape.kv_heads;
    let heads = op.q.cols / dim;
    let group = heads / kv_heads;
    let queries = if group <= 4 { 4 } else { 8 };
    let blocks = group.div_ceil(queries);
    let of_row = u64::from(kv_heads) * u64::from(blocks);
    // As many rows at a time as there are places to count arrivals.
    let rows = match PLACES / of_row {
        0 => return Err(unsupported(name, format!("{of_row} blocks for a row"))),
        rows => op.q.rows.min(rows as u32),
    };
    let groups = u64::from(rows) * of_row;
    let unit = unit(op, groups, context);
    let turns = op.longest.div_ceil(WARPS * TOKENS * unit);
    let splits = splits(groups, u64::from(context.processors), turns, &COSTS);
    let bits = op.bits();
    let (stages, stages_name) = stages(op, context);
    // A part of the result for each split, and for each of its warps, which may have raw tokens.
    let parts = splits * (1 + WARPS);
    let places = u64::from(op.q.rows) * u64::from(heads) * u64::from(parts);
    let variant = [
        ("DIM", if dim == 64 { "64" } else { "128" }),
        ("BITS", if bits == 4 { "4" } else { "8" }),
        ("QUERIES", if queries == 4 { "4" } else { "8" }),
        ("NORMED", if op.k_norm.is_some() { "true" } else { "false" }),
        ("STAGES", stages_name),
    ];
    let scratch = |index, bytes| Argument::Scratch { index, bytes };
    let launch = |first_row: u32| {
        let here = rows.min(op.q.rows - first_row);
        let given = [
            ("q", op.q.into()),
            ("rows", op.rows.into()),
            ("count", op.count.into()),
            ("stores", op.stores.into()),
            ("entries", op.entries.into()),
            ("raw", op.raw.into()),
            ("mean", op.mean.into()),
            ("latents", op.latents.into()),
            ("norm", op.k_norm.into()),
            ("rope", op.rope.into()),
            ("out", op.out.into()),
            ("sums", scratch(0, places * u64::from(dim) * 4)),
            ("stats", scratch(1, places * 8)),
            ("capacity", op.q.rows.into()),
            ("first_row", first_row.into()),
            ("rows_here", here.into()),
            ("heads", heads.into()),
            ("kv_heads", kv_heads.into()),
            ("blocks", blocks.into()),
            ("splits", splits.into()),
            ("unit", unit.into()),
            ("table_rows", op.rope.rows.into()),
            ("epsilon", op.epsilon.into()),
            ("scale", op.scale.into()),
        ];
        let grid = here * of_row as u32 * splits;
        let launch = latent_dispatch(name, &variant, &op.latent, &given, grid)?;
        Ok(Dispatch {
            shared: shared(dim, bits, stages, unit),
            ..launch
        })
    };
    (0..op.q.rows).step_by(rows as usize).map(launch).collect()
}

#[cfg(test)]
mod tests {
    use longwave_contract::kv::BLOCK;

    use super::*;

    #[test]
    fn steps_are_of_the_warps_that_the_kernel_has() {
        assert_eq!(super::super::threads("attend_stored"), 32 * WARPS);
        assert_eq!(BLOCK % (8 * TOKENS), 0);
    }

    #[test]
    fn shared_memory_says_which_heads_there_are() {
        let none: &[u32] = &[];
        assert_eq!(heads(48 << 10), none);
        assert_eq!(heads(99 << 10), &DIMS[..1]);
        assert_eq!((heads(163 << 10), heads(227 << 10)), (&DIMS[..], &DIMS[..]));
        assert!(room(128, 8, 3, 8) <= 227 << 10);
    }
}
