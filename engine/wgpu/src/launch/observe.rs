//! `observe`: logits of all heads into scratch 0, once for each slab of the cache; their totals into scratch 1; then scores.

use longwave_contract::BackendError;
use longwave_contract::op::Observe;

use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// Elements of a head that a workgroup has room for.
const DIM_LIMIT: u32 = 512;
/// Query heads that share the reads of a key head.
const BLOCK: u32 = 4;
/// Candidates of a workgroup.
const CANDIDATES: u32 = 64;

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
    let grid = [capacity.div_ceil(CANDIDATES), all_blocks, picks];
    if grid
        .iter()
        .any(|&groups| groups > context.caps.workgroups_per_axis)
    {
        return Err(unsupported(name, format!("a grid of {grid:?} workgroups")));
    }
    let places = u64::from(picks) * u64::from(all_blocks);
    let logits = context.scratch(name, 0, places * u64::from(capacity) * 16)?;
    let stats = context.scratch(name, 1, places * 32)?;
    let (count, pick_table) = (Bound::Tensor(op.count), Bound::Tensor(op.picks));
    let work = u64::from(picks) * u64::from(op.q.cols) * u64::from(capacity);

    let mut dispatches = Vec::new();
    let kernel_logits = kernel("observe_logits", &[])?;
    for window in context.windows(op.kv) {
        let values = [
            ("picks", picks.into()),
            ("heads", op.heads().into()),
            ("group", group.into()),
            ("blocks", blocks.into()),
            ("head_dim", head_dim.into()),
            ("capacity", capacity.into()),
            ("first_slot", window.first.into()),
            ("slots", window.rows.into()),
            ("kv_pitch", ((op.shape.raw_bytes() / 16) as u32).into()),
            ("scale", op.scale.into()),
        ];
        dispatches.push(Dispatch {
            kernel: kernel_logits,
            overrides: Vec::new(),
            params: params(kernel_logits, &values)?,
            bindings: vec![
                ("q", context.whole(name, "q", op.q)?),
                ("kv", window.bound),
                ("rows", Bound::Tensor(op.rows)),
                ("count", count),
                ("views", Bound::Tensor(op.views)),
                ("entries", context.whole(name, "entries", op.entries)?),
                ("picks", pick_table),
                ("logits", logits),
            ],
            grid,
            work,
        });
    }
    let kernel_total = kernel("observe_total", &[context.reduce()])?;
    dispatches.push(Dispatch {
        kernel: kernel_total,
        overrides: Vec::new(),
        params: params(
            kernel_total,
            &[("picks", picks.into()), ("capacity", capacity.into())],
        )?,
        bindings: vec![
            ("count", count),
            ("picks", pick_table),
            ("logits", logits),
            ("stats", stats),
        ],
        grid: [all_blocks, picks, 1],
        work: places * u64::from(capacity),
    });
    let kernel_score = kernel("observe_score", &[])?;
    let values = [
        ("picks", picks.into()),
        ("group", group.into()),
        ("blocks", blocks.into()),
        ("all_blocks", all_blocks.into()),
        ("capacity", capacity.into()),
        ("pitch", capacity.next_multiple_of(4).into()),
    ];
    dispatches.push(Dispatch {
        kernel: kernel_score,
        overrides: Vec::new(),
        params: params(kernel_score, &values)?,
        bindings: vec![
            ("count", count),
            ("picks", pick_table),
            ("logits", logits),
            ("stats", stats),
            ("scores", context.whole(name, "scores", op.scores)?),
        ],
        grid: [capacity.div_ceil(CANDIDATES), picks, 1],
        work: places * u64::from(capacity),
    });
    Ok(dispatches)
}
