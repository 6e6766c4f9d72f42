//! `attend` for few rows over short views where there are subgroups: a workgroup a query head, in one dispatch without a merge.

use longwave_contract::op::Attend;
use longwave_contract::{BackendError, Caps, DeviceKind};

use super::attend_row::{self, Share};
use super::{AttendKernel, Bound, Context, Dispatch, kernel, params, unsupported};

/// Threads of a workgroup.
const THREADS: u32 = 256;
/// Tokens that a group of threads takes at a time.
const TOKENS: u32 = 8;
/// Steps of a workgroup that take no longer than a second dispatch costs.
const STEPS: u32 = 8;

/// Whether the kernel of this file serves an op, and how threads share its rows. Heads that share a key head read it from caches that software
/// devices do not have.
pub(super) fn serves(op: &Attend, context: &Context<'_>) -> Option<Share> {
    let Caps { subgroup, kind, .. } = context.caps;
    let wanted = |share: &Share| match context.force.attend {
        Some(forced) => forced == AttendKernel::Head,
        None => *kind != DeviceKind::Software && op.longest <= short(*share),
    };
    let usable = !context.force.no_subgroup && context.windows(op.kv).len() == 1;
    attend_row::select(op.q.rows, op.shape.head_dim, *subgroup)
        .filter(wanted)
        .filter(|_| usable)
}

/// The longest view that is short.
fn short(share: Share) -> u32 {
    STEPS * TOKENS * (THREADS / share.lanes())
}

/// The dispatch.
///
/// # Errors
/// [`BackendError::Unsupported`] for too large a grid, and operands that exceed a binding.
pub(super) fn launch(
    op: &Attend,
    share: Share,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let name = Attend::NAME;
    let (rows, heads) = (op.q.rows, op.heads());
    let grid = [heads, 1, rows];
    if grid
        .iter()
        .any(|&groups| groups > context.caps.workgroups_per_axis)
    {
        return Err(unsupported(name, format!("a grid of {grid:?} workgroups")));
    }
    let kernel = kernel("attend_head", &[])?;
    let values = [
        ("rows", rows.into()),
        ("heads", heads.into()),
        ("group", (heads / op.shape.kv_heads).into()),
        ("octets", (op.shape.head_dim / 8).into()),
        ("first_slot", 0.into()),
        ("slots", op.kv.rows.into()),
        ("kv_pitch", ((op.shape.raw_bytes() / 16) as u32).into()),
        ("values", (op.shape.width() / 8).into()),
        ("scale", op.scale.into()),
    ];
    Ok(vec![Dispatch {
        kernel,
        overrides: share.overrides(),
        params: params(kernel, &values)?,
        bindings: vec![
            ("q", context.whole(name, "q", op.q)?),
            ("kv", context.whole(name, "kv", op.kv)?),
            ("rows", Bound::Tensor(op.rows)),
            ("count", Bound::Tensor(op.count)),
            ("views", Bound::Tensor(op.views)),
            ("entries", context.whole(name, "entries", op.entries)?),
            ("out", context.whole(name, "out", op.out)?),
        ],
        grid,
        work: 2 * u64::from(rows) * u64::from(op.q.cols) * u64::from(op.longest),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_short_where_a_workgroup_is_soon_done() {
        let short_of = |head_dim| attend_row::select(1, head_dim, Some((32, 32))).map(short);
        assert_eq!(short_of(128), Some(1024));
        assert_eq!(short_of(64), Some(2048));
        assert_eq!(short_of(256), Some(512));
    }
}
