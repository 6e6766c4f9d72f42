//! `observe`: logits of all heads into scratch 0, with a record of each tile of candidates, once for each slab of the cache; their totals into
//! scratch 1; then scores. Where one binding does not hold the logits of all heads, blocks of heads take turns.

use longwave_contract::BackendError;
use longwave_contract::op::Observe;

use super::{Bound, Context, Dispatch, Window, kernel, params, unsupported};

/// Elements of a head that a workgroup has threads for.
const DIM_LIMIT: u32 = 512;
/// Query heads that share the reads of a key head.
const BLOCK: u32 = 4;
/// Candidates of a workgroup that computes logits.
const TILE: u32 = 128;
/// Candidates of a workgroup that computes scores.
const CANDIDATES: u32 = 64;

/// Blocks of heads that are scored together, and what all kernels need to know.
struct Round {
    picks: u32,
    capacity: u32,
    tiles: u32,
    /// Query heads of a key head, and blocks among them.
    group: u32,
    blocks: u32,
    /// The first block, and how many.
    first: u32,
    now: u32,
    logits: Bound,
    stats: Bound,
}

impl Round {
    /// Where the tiles' records begin, in units of four numbers.
    fn records(&self) -> u32 {
        self.picks * self.now * self.capacity
    }

    /// Logits of this round.
    fn work(&self) -> u64 {
        u64::from(self.picks) * u64::from(self.now * BLOCK) * u64::from(self.capacity)
    }
}

/// # Errors
/// [`BackendError::Unsupported`] for heads that are no multiple of 8 or beyond 512 elements, and operands that exceed a binding.
pub(super) fn launch(op: &Observe, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let name = Observe::NAME;
    let head_dim = op.shape.head_dim;
    if !head_dim.is_multiple_of(8) || head_dim > DIM_LIMIT {
        return Err(unsupported(name, format!("heads of {head_dim} elements")));
    }
    let (picks, capacity) = (op.picks.rows, op.scores.cols);
    let group = op.heads() / op.shape.kv_heads;
    let blocks = group.div_ceil(BLOCK);
    let all_blocks = op.shape.kv_heads * blocks;
    let tiles = capacity.div_ceil(TILE);
    let grid = [capacity.div_ceil(CANDIDATES), all_blocks, picks];
    if grid
        .iter()
        .any(|&groups| groups > context.caps.workgroups_per_axis)
    {
        return Err(unsupported(name, format!("a grid of {grid:?} workgroups")));
    }
    let a_block = u64::from(picks) * (u64::from(capacity) + 2 * u64::from(tiles)) * 16;
    let at_once = (context.caps.slab_limit / a_block.max(1)).clamp(1, u64::from(all_blocks)) as u32;
    let mut dispatches = Vec::new();
    for first in (0..all_blocks).step_by(at_once as usize) {
        let now = at_once.min(all_blocks - first);
        let round = Round {
            picks,
            capacity,
            tiles,
            group,
            blocks,
            first,
            now,
            logits: context.scratch(name, 0, u64::from(now) * a_block)?,
            stats: context.scratch(name, 1, u64::from(picks) * u64::from(now) * 32)?,
        };
        for (index, window) in context.windows(op.kv).into_iter().enumerate() {
            dispatches.push(logits(op, &round, &window, index > 0, context)?);
        }
        dispatches.push(total(op, &round, context)?);
        dispatches.push(score(op, &round, context)?);
    }
    Ok(dispatches)
}

fn logits(
    op: &Observe,
    round: &Round,
    window: &Window,
    resume: bool,
    context: &Context<'_>,
) -> Result<Dispatch, BackendError> {
    let name = Observe::NAME;
    let kernel = kernel("observe_logits", &[])?;
    let values = [
        ("picks", round.picks.into()),
        ("heads", op.heads().into()),
        ("group", round.group.into()),
        ("blocks", round.blocks.into()),
        ("first_block", round.first.into()),
        ("capacity", round.capacity.into()),
        ("records", round.records().into()),
        ("first_slot", window.first.into()),
        ("slots", window.rows.into()),
        ("kv_pitch", ((op.shape.raw_bytes() / 16) as u32).into()),
        ("resume", u32::from(resume).into()),
        ("scale", op.scale.into()),
    ];
    Ok(Dispatch {
        kernel,
        overrides: vec![("LANES", f64::from(op.shape.head_dim / 8))],
        params: params(kernel, &values)?,
        bindings: vec![
            ("q", context.whole(name, "q", op.q)?),
            ("kv", window.bound),
            ("rows", Bound::Tensor(op.rows)),
            ("count", Bound::Tensor(op.count)),
            ("views", Bound::Tensor(op.views)),
            ("entries", context.whole(name, "entries", op.entries)?),
            ("picks", Bound::Tensor(op.picks)),
            ("logits", round.logits),
        ],
        grid: [round.now, round.tiles, round.picks],
        work: round.work() * u64::from(op.shape.head_dim),
    })
}

fn total(op: &Observe, round: &Round, context: &Context<'_>) -> Result<Dispatch, BackendError> {
    let kernel = kernel("observe_total", &[context.reduce()])?;
    let values = [
        ("picks", round.picks.into()),
        ("group", round.group.into()),
        ("blocks", round.blocks.into()),
        ("first_block", round.first.into()),
        ("capacity", round.capacity.into()),
        ("tiles", round.tiles.into()),
        ("records", round.records().into()),
    ];
    Ok(Dispatch {
        kernel,
        overrides: Vec::new(),
        params: params(kernel, &values)?,
        bindings: vec![
            ("count", Bound::Tensor(op.count)),
            ("picks", Bound::Tensor(op.picks)),
            ("logits", round.logits),
            ("stats", round.stats),
        ],
        grid: [round.now, round.picks, 1],
        work: round.work() / u64::from(TILE),
    })
}

fn score(op: &Observe, round: &Round, context: &Context<'_>) -> Result<Dispatch, BackendError> {
    let name = Observe::NAME;
    let kernel = kernel("observe_score", &[])?;
    let values = [
        ("picks", round.picks.into()),
        ("all_blocks", round.now.into()),
        ("capacity", round.capacity.into()),
        ("pitch", round.capacity.next_multiple_of(4).into()),
        ("resume", u32::from(round.first > 0).into()),
    ];
    Ok(Dispatch {
        kernel,
        overrides: Vec::new(),
        params: params(kernel, &values)?,
        bindings: vec![
            ("count", Bound::Tensor(op.count)),
            ("picks", Bound::Tensor(op.picks)),
            ("logits", round.logits),
            ("stats", round.stats),
            ("scores", context.whole(name, "scores", op.scores)?),
        ],
        grid: [round.capacity.div_ceil(CANDIDATES), round.picks, 1],
        work: round.work(),
    })
}
