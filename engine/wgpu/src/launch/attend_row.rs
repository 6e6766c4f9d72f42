//! `attend` for few rows where there are subgroups: a row at a time, whose heads of a key head share the reads of a view.

use longwave_contract::op::Attend;
use longwave_contract::{BackendError, Caps, DeviceKind};

use super::attend::{BLOCK, CHUNK, Cut, Merge, Results, WORK_LIMIT};
use super::{AttendKernel, Bound, Context, Dispatch, kernel, params, unsupported};

/// Threads of a workgroup.
const THREADS: u32 = 128;
/// Octets of a head that a thread takes at most.
const PIECES: u32 = 2;
/// Tokens that a group of threads takes at a time.
const TOKENS: u32 = 4;
/// Threads of a group: at least, and at most.
const LANES: (u32, u32) = (4, 32);
/// Tokens below which a view is not split further.
const SPLIT_LEAST: u32 = 32;
/// Workgroups that keep a large device busy: three on each of its processors, as many as their registers leave room for. With more, the last ones
/// run alone.
const BUSY: u32 = 396;

/// How threads share a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Threads that share a token.
    lanes: u32,
    /// Octets of a head that each of them takes.
    pieces: u32,
}

impl Share {
    /// Threads that share a token.
    pub(super) fn lanes(self) -> u32 {
        self.lanes
    }

    /// What the kernels are told of it.
    pub(super) fn overrides(self) -> Vec<(&'static str, f64)> {
        vec![
            ("LANES", f64::from(self.lanes)),
            ("PIECES", f64::from(self.pieces)),
        ]
    }
}

/// How threads share rows, where there are few rows and subgroups that hold a group of threads.
pub(super) fn select(rows: u32, head_dim: u32, subgroup: Option<(u32, u32)>) -> Option<Share> {
    share(head_dim, subgroup).filter(|_| rows < CHUNK)
}

/// How threads share rows of any number, where subgroups hold a group of threads.
pub(super) fn share(head_dim: u32, subgroup: Option<(u32, u32)>) -> Option<Share> {
    let (least, most) = subgroup?;
    let octets = head_dim / 8;
    // The largest power of two that leaves no thread without an octet.
    let lanes = (1u32 << octets.checked_ilog2()?).min(least).min(LANES.1);
    let pieces = octets.div_ceil(lanes);
    let fits = lanes.is_power_of_two() && lanes >= LANES.0 && pieces <= PIECES && most <= THREADS;
    fits.then_some(Share { lanes, pieces })
}

/// Cuts the longest view so that workgroups keep the device busy; `groups` are those of one split, of which there are `room` at most. `lanes` threads
/// share a token.
pub(super) fn cut(groups: u32, lanes: u32, longest: u32, room: u64) -> Cut {
    let step = THREADS / lanes * TOKENS;
    let most = u64::from(longest.div_ceil(SPLIT_LEAST)).min(room).max(1) as u32;
    let wanted = (BUSY / groups.max(1)).clamp(1, most);
    let tokens = longest.div_ceil(wanted).div_ceil(step).max(1) * step;
    Cut {
        rows: 1,
        tokens,
        splits: longest.div_ceil(tokens).max(1),
    }
}

/// Whether the kernel of this file serves an op, and how. On a software device the kernel with barriers is quicker: llvmpipe takes 1.5 times as
/// long with this one.
pub(super) fn serves(op: &Attend, context: &Context<'_>) -> Option<Share> {
    let Caps { subgroup, kind, .. } = context.caps;
    let wanted = match context.force.attend {
        Some(forced) => forced == AttendKernel::Row,
        None => *kind != DeviceKind::Software,
    };
    let usable = wanted && !context.force.no_subgroup;
    select(op.q.rows, op.shape.head_dim, *subgroup).filter(|_| usable)
}

/// The dispatches, for each slab of the cache, and the merge.
///
/// # Errors
/// [`BackendError::Unsupported`] for too large a grid, and operands that exceed a binding.
pub(super) fn launch(
    op: &Attend,
    share: Share,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let name = Attend::NAME;
    let rows = op.q.rows;
    let (heads, kv_heads) = (op.heads(), op.shape.kv_heads);
    let group = heads / kv_heads;
    let blocks = group.div_ceil(BLOCK);
    let a_split = u64::from(rows) * u64::from(op.q.cols) * 4;
    let room = context.caps.slab_limit / a_split.max(1);
    let cut = cut(rows * kv_heads * blocks, share.lanes, op.longest, room);
    let out = context.whole(name, "out", op.out)?;
    let results = Results::of(op, cut, out, context)?;
    let mut dispatches = splits(op, share, cut, results, false, context)?;
    if cut.splits > 1 {
        dispatches.push(Merge::of(op, results, out).launch(cut, context)?);
    }
    Ok(dispatches)
}

/// The dispatches for each slab of the cache, of all rows, or of `lone` ones: those that share their view with no neighbour.
///
/// # Errors
/// [`BackendError::Unsupported`] for too large a grid, and operands that exceed a binding.
pub(super) fn splits(
    op: &Attend,
    share: Share,
    cut: Cut,
    results: Results,
    lone: bool,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let name = Attend::NAME;
    let (rows, head_dim) = (op.q.rows, op.shape.head_dim);
    let (heads, kv_heads) = (op.heads(), op.shape.kv_heads);
    let group = heads / kv_heads;
    let blocks = group.div_ceil(BLOCK);
    let grid = [kv_heads * blocks, cut.splits, rows];
    if grid
        .iter()
        .any(|&groups| groups > context.caps.workgroups_per_axis)
    {
        return Err(unsupported(name, format!("a grid of {grid:?} workgroups")));
    }
    let single = cut.splits == 1;
    let kernel = kernel("attend_row", &[])?;
    let windows = context.windows(op.kv);
    let last = windows.len().saturating_sub(1);
    let a_row = 2 * u64::from(op.q.cols) * u64::from(op.longest);
    // Hardly more rows are lone than there are views: few enough for one dispatch, whose workgroups go on to other rows where there are more.
    let (busy, at_once) = match lone {
        true => (rows.min(op.views.rows), rows),
        false => (
            rows,
            (WORK_LIMIT / a_row.max(1)).clamp(1, u64::from(rows)) as u32,
        ),
    };
    let mut dispatches = Vec::new();
    for (index, window) in windows.into_iter().enumerate() {
        for first_row in (0..rows).step_by(at_once as usize) {
            let now = at_once.min(rows - first_row).min(busy);
            let values = [
                ("rows", rows.into()),
                ("first_row", first_row.into()),
                ("row_step", if lone { busy } else { rows }.into()),
                ("heads", heads.into()),
                ("group", group.into()),
                ("blocks", blocks.into()),
                ("octets", (head_dim / 8).into()),
                ("split_tokens", cut.tokens.into()),
                ("splits", cut.splits.into()),
                ("first_slot", window.first.into()),
                ("slots", window.rows.into()),
                ("kv_pitch", ((op.shape.raw_bytes() / 16) as u32).into()),
                ("values", (op.shape.width() / 8).into()),
                ("resume", u32::from(index > 0).into()),
                ("finish", u32::from(single && index == last).into()),
                ("lone", u32::from(lone).into()),
                ("scale", op.scale.into()),
            ];
            dispatches.push(Dispatch {
                kernel,
                overrides: share.overrides(),
                params: params(kernel, &values)?,
                bindings: vec![
                    ("q", context.whole(name, "q", op.q)?),
                    ("kv", window.bound),
                    ("rows", Bound::Tensor(op.rows)),
                    ("count", Bound::Tensor(op.count)),
                    ("views", Bound::Tensor(op.views)),
                    ("entries", context.whole(name, "entries", op.entries)?),
                    ("sums", results.sums),
                    ("stats", results.stats),
                ],
                grid: [grid[0], grid[1], now],
                work: u64::from(now) * a_row,
            });
        }
    }
    Ok(dispatches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_served_where_subgroups_hold_a_group() {
        let share = |lanes, pieces| Some(Share { lanes, pieces });
        assert_eq!(select(1, 128, Some((32, 32))), share(16, 1));
        assert_eq!(select(8, 64, Some((8, 32))), share(8, 1));
        assert_eq!(select(1, 256, Some((32, 64))), share(32, 1));
        assert_eq!(select(1, 512, Some((32, 32))), share(32, 2));
        assert_eq!(select(1, 80, Some((32, 32))), share(8, 2));
        assert_eq!(select(1, 128, Some((8, 8))), share(8, 2));
        // Too many rows, threads with too much, and no groups.
        assert_eq!(select(9, 128, Some((32, 32))), None);
        assert_eq!(select(1, 256, Some((8, 8))), None);
        assert_eq!(select(1, 16, Some((32, 32))), None);
        assert_eq!(select(1, 128, None), None);
    }

    #[test]
    fn splits_cover_the_longest_view() {
        for longest in [1, 63, 64, 65, 257, 1000, 16_384, 131_072] {
            for groups in [1, 8, 64, 5000] {
                assert!(cut(groups, 16, longest, 3).splits <= 3);
                let cut = cut(groups, 16, longest, u64::MAX);
                assert!(cut.tokens * cut.splits >= longest);
                assert!(cut.tokens * (cut.splits - 1) < longest);
                assert!(cut.splits == 1 || cut.splits * groups <= BUSY);
            }
        }
    }
}
