//! `attend`: rows one by one, or many queries together where rows share a view.
//!
//! A view may be cut into splits that several blocks attend to, each leaving a sum and a weight in scratch 0 and 1; the last of them to end
//! makes one result of all.

use longwave_contract::BackendError;
use longwave_contract::op::Attend;

use super::{
    Argument, AttendKernel, Context, Dispatch, attend_split, attend_tile, attend_warpgroup,
    unsupported,
};

/// Elements of a head at most.
const DIM_LIMIT: u32 = 512;
/// Rows of one view from which on they are taken together.
const SHARED_ROWS: u32 = 3;
/// Groups of blocks that may share views: as many as `arrivals` in `part/attend.cuh` counts.
pub(super) const PLACES: u64 = 4096;

/// Which kernels serve a recording's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// All of them one by one.
    Split,
    /// All of them together.
    Tile,
    /// Those that share a view with a neighbour together, the others one by one.
    Both,
}

fn select(rows: u32, views: u32, head_dim: u32, forced: Option<AttendKernel>) -> Choice {
    match forced {
        _ if head_dim > attend_tile::DIM_LIMIT => Choice::Split,
        Some(AttendKernel::Tile | AttendKernel::Warpgroup) => Choice::Tile,
        Some(AttendKernel::Head | AttendKernel::Split) => Choice::Split,
        None if rows < SHARED_ROWS => Choice::Split,
        None if views == 1 => Choice::Tile,
        None => Choice::Both,
    }
}

/// # Errors
/// [`BackendError::Unsupported`] for heads that are no multiple of 8 or beyond 512 elements, and grids that are too large.
pub(super) fn launch(op: &Attend, context: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let head_dim = op.shape.head_dim;
    if !head_dim.is_multiple_of(8) || head_dim > DIM_LIMIT {
        let why = format!("heads of {head_dim} elements");
        return Err(unsupported(Attend::NAME, why));
    }
    let mut dispatches = Vec::new();
    let choice = select(op.q.rows, op.views.rows, head_dim, context.force.attend);
    let lone = choice == Choice::Both;
    if choice != Choice::Split {
        let warpgroup = attend_warpgroup::serves(op, context)
            && match context.force.attend {
                None => attend_warpgroup::fills(op, context),
                Some(forced) => forced == AttendKernel::Warpgroup,
            };
        dispatches.push(match warpgroup {
            true => attend_warpgroup::launch(op, lone)?,
            false => attend_tile::launch(op, lone, context)?,
        });
    }
    if choice != Choice::Tile {
        dispatches.push(attend_split::launch(op, lone, context)?);
    }
    Ok(dispatches)
}

/// What splits cost, in steps of a block.
pub(super) struct Costs {
    /// For each block, where there are several splits.
    pub block: f64,
    /// For each split, when all become one.
    pub merge: f64,
}

/// Into how many splits to cut views of `steps` steps so that blocks are soon done: `groups` are those of one split, `slots` those that run at
/// once.
pub(super) fn splits(groups: u64, slots: u64, steps: u32, costs: &Costs) -> u32 {
    let cost = |splits: u32| {
        let waves = (groups * u64::from(splits)).div_ceil(slots.max(1)) as f64;
        let (block, merge) = match splits {
            1 => (0.0, 0.0),
            _ => (costs.block, costs.block + costs.merge * f64::from(splits)),
        };
        waves * (f64::from(steps.div_ceil(splits)) + block) + merge
    };
    // More than fill the device twice only cost.
    let most = match groups {
        0..=PLACES => (2 * slots).div_ceil(groups.max(1)).min(u64::from(steps)) as u32,
        _ => 1,
    };
    let cheaper = |a: &u32, b: &u32| cost(*a).total_cmp(&cost(*b));
    (1..=most.max(1)).min_by(cheaper).unwrap_or(1)
}

/// What every kernel of attention is passed, with room for the splits of all rows.
pub(super) fn arguments(op: &Attend, splits: u32, lone: bool) -> Vec<(&'static str, Argument)> {
    let places = u64::from(op.q.rows) * u64::from(op.heads()) * u64::from(splits);
    let scratch = |index, bytes| match splits {
        1 => Argument::Absent,
        _ => Argument::Scratch { index, bytes },
    };
    vec![
        ("q", op.q.into()),
        ("kv", op.kv.into()),
        ("rows", op.rows.into()),
        ("count", op.count.into()),
        ("views", op.views.into()),
        ("entries", op.entries.into()),
        ("out", op.out.into()),
        (
            "sums",
            scratch(0, places * u64::from(op.shape.head_dim) * 4),
        ),
        ("stats", scratch(1, places * 8)),
        ("capacity", op.q.rows.into()),
        ("heads", op.heads().into()),
        ("kv_heads", op.shape.kv_heads.into()),
        ("octets", (op.shape.head_dim / 8).into()),
        ("kv_pitch", ((op.shape.raw_bytes() / 16) as u32).into()),
        ("values", (op.shape.width() / 8).into()),
        ("splits", splits.into()),
        ("lone", u32::from(lone).into()),
        ("scale", op.scale.into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_share_a_view_are_taken_together() {
        assert_eq!(select(1, 1, 128, None), Choice::Split);
        assert_eq!(select(2, 16, 128, None), Choice::Split);
        assert_eq!(select(16, 16, 128, None), Choice::Both);
        assert_eq!(select(512, 1, 128, None), Choice::Tile);
        assert_eq!(select(512, 1, 512, None), Choice::Split);
        let forced = |rows, kernel| select(rows, 1, 64, Some(kernel));
        assert_eq!(forced(1, AttendKernel::Tile), Choice::Tile);
        assert_eq!(forced(512, AttendKernel::Split), Choice::Split);
        assert_eq!(forced(512, AttendKernel::Head), Choice::Split);
    }

    #[test]
    fn splits_fill_the_device() {
        let costs = Costs {
            block: 1.0,
            merge: 1.0 / 16.0,
        };
        let of = |groups, steps| splits(groups, 396, steps, &costs);
        // Short views are not worth a merge.
        assert_eq!((of(8, 1), of(8, 2), of(8, 8)), (1, 1, 8));
        assert_eq!(of(8, 2048), 49);
        assert_eq!(of(128, 256), 3);
        // As many as there are processors for, and more than there are places.
        assert_eq!((of(396, 256), of(5000, 2048)), (1, 1));
    }
}
