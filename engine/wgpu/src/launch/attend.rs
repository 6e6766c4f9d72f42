//! `attend`: splits of each row's view into scratch 0 and 1, which a dispatch for each slab of the cache carries on, then their merge. A
//! single split goes to the output at once.

use longwave_contract::op::Attend;
use longwave_contract::{BackendError, Tensor};

use super::{
    AttendKernel, Bound, Context, Dispatch, attend_head, attend_row, kernel, params, unsupported,
};

/// Elements of queries that a workgroup has room for: rows by elements of a head.
const TILE_LIMIT: u32 = 512;
/// Rows that a workgroup takes together where rows of a chunk share a view.
const TILE_ROWS: u32 = 4;
/// Row capacity from which a recording is taken to hold chunks.
pub(super) const CHUNK: u32 = 9;
/// Query heads that share the reads of a key head.
pub(super) const BLOCK: u32 = 4;
/// Tokens that a workgroup takes at a time.
const STEP: u32 = 64;
/// Tokens below which a view is not split further.
const SPLIT_LEAST: u32 = 256;
/// Multiply-adds of one dispatch at most: a chunk over a long context is cut by rows, so that no submission grows too long.
pub(super) const WORK_LIMIT: u64 = 10_000_000_000;
/// Workgroups that keep a large device busy.
const BUSY: u32 = 1024;
/// Queries of a workgroup for matrix units.
const QUERIES: u32 = 64;
/// Workgroups for matrix units that keep a large device busy: two on each of its processors.
const COOPERATIVE_BUSY: u32 = 192;
/// Splits of long views where rows of several sequences are taken in; the tokens that make each worth its merge; and rows by splits for which
/// there is working memory.
const MIXED_SPLITS: u32 = 16;
const MIXED_TOKENS: u32 = 4096;
const MIXED_ROWS: u32 = 8192;
/// Multiply-adds of one dispatch for matrix units at most.
const COOPERATIVE_WORK: u64 = 1_000_000_000_000;

/// How rows and views are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Rows of a workgroup: 1 or [`TILE_ROWS`]; all of the op's for matrix units.
    pub rows: u32,
    /// Tokens of a split.
    pub tokens: u32,
    /// Splits of the longest view.
    pub splits: u32,
}

/// What splits leave: weighted sums of values, and maxima with sums of weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Results {
    /// `[row][head][split][head_dim]`; the output itself where there is one split.
    pub sums: Bound,
    /// `[row][head][split]`.
    pub stats: Bound,
}

impl Results {
    /// Those of splits, in scratch 0 and 1.
    pub(super) fn of(
        op: &Attend,
        cut: Cut,
        out: Bound,
        context: &Context<'_>,
    ) -> Result<Self, BackendError> {
        let places = u64::from(op.q.rows) * u64::from(op.heads()) * u64::from(cut.splits);
        let bytes = places * u64::from(op.shape.head_dim) * 4;
        Ok(Results {
            sums: match cut.splits {
                1 => out,
                _ => context.scratch(Attend::NAME, 0, bytes)?,
            },
            stats: context.scratch(Attend::NAME, 1, places * 8)?,
        })
    }
}

/// Takes rows together where there are many and their heads fit, then cuts views so that workgroups keep the device busy. `groups` are
/// the workgroups of one row and split.
fn select(
    rows: u32,
    head_dim: u32,
    groups: u32,
    longest: u32,
    forced: Option<AttendKernel>,
) -> Cut {
    let wants_tile = match forced {
        Some(forced) => forced == AttendKernel::Tile,
        None => rows >= CHUNK,
    };
    let fits = TILE_ROWS.saturating_mul(head_dim) <= TILE_LIMIT;
    let tile = if wants_tile && fits { TILE_ROWS } else { 1 };
    split(
        rows.div_ceil(tile).saturating_mul(groups),
        BUSY,
        tile,
        longest,
    )
}

/// Cuts the longest view so that about `busy` workgroups run, of which each split has `groups`.
fn split(groups: u32, busy: u32, rows: u32, longest: u32) -> Cut {
    let most = longest.div_ceil(SPLIT_LEAST).max(1);
    let wanted = busy.div_ceil(groups.max(1)).clamp(1, most);
    let tokens = longest.div_ceil(wanted).max(1);
    let tokens = tokens.div_ceil(STEP).saturating_mul(STEP);
    Cut {
        rows,
        tokens,
        splits: longest.div_ceil(tokens).max(1),
    }
}

/// Splits at least of a view that may be that of few of the rows, which a step of many requests takes in beside others with short views: those
/// few alone do not keep a large device busy.
fn mixed_splits(rows: u32, longest: u32) -> u32 {
    let most = MIXED_SPLITS.min(longest / MIXED_TOKENS);
    most.min(MIXED_ROWS / rows.max(1)).max(1)
}

/// # Errors
/// [`BackendError::Unsupported`] for heads that are no multiple of 8 or beyond 512 elements, and operands that exceed a binding.
pub(super) fn launch(op: &Attend, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let name = Attend::NAME;
    let (rows, head_dim) = (op.q.rows, op.shape.head_dim);
    if !head_dim.is_multiple_of(8) || head_dim > TILE_LIMIT {
        return Err(unsupported(name, format!("heads of {head_dim} elements")));
    }
    let (heads, kv_heads) = (op.heads(), op.shape.kv_heads);
    let group = heads / kv_heads;
    let blocks = group.div_ceil(BLOCK);
    let windows = context.windows(op.kv);
    if let [window] = windows.as_slice()
        && takes_matrix_units(op, context)
    {
        return cooperative(op, window.bound, context);
    }
    if let Some(share) = attend_head::serves(op, context) {
        return attend_head::launch(op, share, context);
    }
    if let Some(share) = attend_row::serves(op, context) {
        return attend_row::launch(op, share, context);
    }
    let cut = select(
        rows,
        head_dim,
        kv_heads.saturating_mul(blocks),
        op.longest,
        context.force.attend,
    );
    let grid = [cut.splits, kv_heads * blocks, rows.div_ceil(cut.rows)];
    if grid
        .iter()
        .any(|&groups| groups > context.caps.workgroups_per_axis)
    {
        return Err(unsupported(name, format!("a grid of {grid:?} workgroups")));
    }
    let out = context.whole(name, "out", op.out)?;
    let single = cut.splits == 1;
    let results = Results::of(op, cut, out, context)?;
    let query_rows = format!("query_rows_{}", cut.rows);
    let split = kernel("attend_split", &[&query_rows, context.reduce()])?;
    let mut dispatches = Vec::new();
    let last = windows.len().saturating_sub(1);
    let a_row = 2 * u64::from(op.q.cols) * u64::from(op.longest);
    let at_once = (WORK_LIMIT / a_row.max(1)).clamp(1, u64::from(rows)) as u32;
    let at_once = at_once.next_multiple_of(cut.rows);
    for (index, window) in windows.into_iter().enumerate() {
        for first_row in (0..rows).step_by(at_once as usize) {
            let values = [
                ("rows", rows.into()),
                ("first_row", first_row.into()),
                ("heads", heads.into()),
                ("group", group.into()),
                ("blocks", blocks.into()),
                ("head_dim", head_dim.into()),
                ("split_tokens", cut.tokens.into()),
                ("splits", cut.splits.into()),
                ("first_slot", window.first.into()),
                ("slots", window.rows.into()),
                ("kv_pitch", ((op.shape.raw_bytes() / 16) as u32).into()),
                ("values", (op.shape.width() / 8).into()),
                ("resume", u32::from(index > 0).into()),
                ("finish", u32::from(single && index == last).into()),
                ("scale", op.scale.into()),
            ];
            let now = at_once.min(rows - first_row);
            dispatches.push(Dispatch {
                kernel: split,
                overrides: Vec::new(),
                params: params(split, &values)?,
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
                grid: [grid[0], grid[1], now.div_ceil(cut.rows)],
                work: u64::from(now) * a_row,
            });
        }
    }
    if !single {
        dispatches.push(Merge::of(op, results, out).launch(cut, context)?);
    }
    Ok(dispatches)
}

/// Whether an op is one for matrix units: a chunk's rows, heads of a size that there is a kernel for, and a cache in one piece.
fn takes_matrix_units(op: &Attend, context: &Context<'_>) -> bool {
    let chunk = match context.force.attend {
        Some(forced) => forced == AttendKernel::Cooperative,
        None => op.q.rows >= CHUNK,
    };
    chunk && context.cooperative() && matches!(op.shape.head_dim, 64 | 128)
}

/// The dispatches by matrix units.
fn cooperative(
    op: &Attend,
    kv: Bound,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let name = Attend::NAME;
    let (rows, head_dim) = (op.q.rows, op.shape.head_dim);
    let (heads, kv_heads) = (op.heads(), op.shape.kv_heads);
    let group = heads / kv_heads;
    let tiles = |rows: u32| rows.saturating_mul(group).div_ceil(QUERIES);
    let groups = tiles(rows).saturating_mul(kv_heads);
    // Rows of several sequences, one each, would take turns in a tile.
    let lone = match context.force.attend {
        None if op.views.rows > 1 => attend_row::share(head_dim, context.caps.subgroup),
        _ => None,
    };
    let a_split = u64::from(rows) * u64::from(op.q.cols) * 4;
    let room = context.caps.slab_limit / a_split.max(1);
    let groups = match lone {
        Some(_) => {
            let splits = u64::from(mixed_splits(rows, op.longest)).min(room).max(1);
            groups.min(COOPERATIVE_BUSY.div_ceil(splits as u32))
        }
        None => groups,
    };
    let cut = split(groups, COOPERATIVE_BUSY, rows, op.longest);
    let out = context.whole(name, "out", op.out)?;
    let single = cut.splits == 1;
    let results = Results::of(op, cut, out, context)?;
    let kernel = kernel("attend_coop", &[&format!("head_{head_dim}")])?;
    let a_row = 2 * u64::from(op.q.cols) * u64::from(op.longest);
    let at_once = (COOPERATIVE_WORK / a_row.max(1)).clamp(1, u64::from(rows)) as u32;
    let at_once = at_once.next_multiple_of(QUERIES);
    let mut dispatches = Vec::new();
    for first_row in (0..rows).step_by(at_once as usize) {
        let now = at_once.min(rows - first_row);
        let grid = [cut.splits, kv_heads, tiles(now)];
        if grid
            .iter()
            .any(|&groups| groups > context.caps.workgroups_per_axis)
        {
            return Err(unsupported(name, format!("a grid of {grid:?} workgroups")));
        }
        let values = [
            ("rows", rows.into()),
            ("first_query", (first_row * group).into()),
            ("heads", heads.into()),
            ("group", group.into()),
            ("split_tokens", cut.tokens.into()),
            ("splits", cut.splits.into()),
            ("kv_pitch", ((op.shape.raw_bytes() / 8) as u32).into()),
            ("values", (op.shape.width() / 4).into()),
            ("finish", u32::from(single).into()),
            ("lone", u32::from(lone.is_some()).into()),
            ("scale", op.scale.into()),
        ];
        dispatches.push(Dispatch {
            kernel,
            overrides: Vec::new(),
            params: params(kernel, &values)?,
            bindings: vec![
                ("q", context.whole(name, "q", op.q)?),
                ("kv", kv),
                ("rows", Bound::Tensor(op.rows)),
                ("count", Bound::Tensor(op.count)),
                ("views", Bound::Tensor(op.views)),
                ("entries", context.whole(name, "entries", op.entries)?),
                ("sums", results.sums),
                ("stats", results.stats),
            ],
            grid,
            work: u64::from(now) * a_row,
        });
    }
    if let Some(share) = lone {
        dispatches.extend(attend_row::splits(op, share, cut, results, true, context)?);
    }
    if !single {
        dispatches.push(Merge::of(op, results, out).launch(cut, context)?);
    }
    Ok(dispatches)
}

/// What makes one result of all splits.
pub(super) struct Merge {
    /// Row descriptors, and how many of them count.
    pub rows: Tensor,
    pub count: Tensor,
    /// The kernel's variant, and the binding and the tensor that say what rows see.
    pub seen: (&'static str, &'static str, Tensor),
    /// What splits left, together with their maxima and weights or apart from them.
    pub sums: Bound,
    pub stats: Option<Bound>,
    /// Query heads, and their elements.
    pub heads: u32,
    pub head_dim: u32,
    /// The result.
    pub out: Bound,
}

impl Merge {
    pub(super) fn of(op: &Attend, results: Results, out: Bound) -> Self {
        Merge {
            rows: op.rows,
            count: op.count,
            seen: ("splits_of_views", "views", op.views),
            sums: results.sums,
            stats: Some(results.stats),
            heads: op.heads(),
            head_dim: op.shape.head_dim,
            out,
        }
    }

    /// The dispatch.
    pub(super) fn launch(&self, cut: Cut, context: &Context<'_>) -> Result<Dispatch, BackendError> {
        let (variant, binding, seen) = self.seen;
        let merge = kernel("attend_merge", &[context.reduce(), variant])?;
        let values = [
            ("rows", self.rows.rows.into()),
            ("heads", self.heads.into()),
            ("quads", (self.head_dim / 4).into()),
            ("split_tokens", cut.tokens.into()),
            ("splits", cut.splits.into()),
        ];
        let places = u64::from(self.rows.rows) * u64::from(self.heads) * u64::from(cut.splits);
        let mut bindings = vec![
            ("sums", self.sums),
            ("rows", Bound::Tensor(self.rows)),
            ("count", Bound::Tensor(self.count)),
            (binding, Bound::Tensor(seen)),
            ("out", self.out),
        ];
        bindings.extend(self.stats.map(|stats| ("stats", stats)));
        Ok(Dispatch {
            kernel: merge,
            overrides: Vec::new(),
            params: params(merge, &values)?,
            bindings,
            grid: [self.heads, self.rows.rows, 1],
            work: places * u64::from(self.head_dim),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_views_of_few_rows_are_split_and_many_rows_are_not() {
        let one = select(1, 128, 8, 131_072, None);
        assert_eq!((one.rows, one.tokens, one.splits), (1, 1024, 128));
        let chunk = select(512, 128, 8, 131_072, None);
        assert_eq!((chunk.rows, chunk.splits), (4, 1));
        assert_eq!(select(1, 64, 8, 1, None).tokens, 64);
    }

    #[test]
    fn long_views_are_split_where_they_may_be_few_rows() {
        assert_eq!(mixed_splits(256, 100_000), 16);
        assert_eq!(mixed_splits(1024, 100_000), 8);
        assert_eq!(mixed_splits(4096, 100_000), 2);
        assert_eq!(mixed_splits(16_384, 100_000), 1);
        assert_eq!(mixed_splits(1024, 9000), 2);
        assert_eq!(mixed_splits(16, 100), 1);
    }

    #[test]
    fn rows_are_taken_together_where_their_heads_fit() {
        assert_eq!(select(8, 128, 8, 100, None).rows, 1);
        assert_eq!(select(9, 128, 8, 100, None).rows, 4);
        assert_eq!(select(9, 256, 8, 100, None).rows, 1);
        let forced = |kernel| select(2, 64, 8, 100, Some(kernel)).rows;
        assert_eq!(forced(AttendKernel::Tile), 4);
        assert_eq!(forced(AttendKernel::Split), 1);
    }

    #[test]
    fn splits_cover_the_longest_view() {
        for longest in [1, 63, 64, 65, 255, 257, 1000, 5000, 100_003] {
            for groups in [1, 3, 8, 100, 5000] {
                let cut = select(1, 64, groups, longest, None);
                assert!(cut.tokens.is_multiple_of(STEP));
                assert!(u64::from(cut.tokens) * u64::from(cut.splits) >= u64::from(longest));
                assert!(u64::from(cut.tokens) * u64::from(cut.splits - 1) < u64::from(longest));
            }
        }
    }
}
