//! `select`: one workgroup a pick.

use longwave_contract::BackendError;
use longwave_contract::op::{Select, Selected};

use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// # Errors
/// [`BackendError::Unsupported`] for more picks than a grid has workgroups, and operands that exceed a binding.
pub(super) fn launch(op: &Select, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let name = Select::NAME;
    let picks = op.picks.rows;
    if picks > context.caps.workgroups_per_axis {
        return Err(unsupported(name, format!("{picks} picks")));
    }
    let kernel = kernel("select", &[])?;
    let values = [
        ("picks", picks.into()),
        ("scores_pitch", op.scores.cols.next_multiple_of(4).into()),
        ("out_pitch", op.out.cols.next_multiple_of(4).into()),
        ("capacity", op.out.cols.into()),
        ("first_slot", 0.into()),
        ("slots", u32::MAX.into()),
        (
            "overlap",
            op.overlap
                .map_or(u32::MAX, |overlap| overlap.min(1000))
                .into(),
        ),
        ("places", u32::from(op.yields == Selected::Tokens).into()),
    ];
    let dispatch = Dispatch {
        kernel,
        overrides: Vec::new(),
        params: params(kernel, &values)?,
        bindings: vec![
            ("scores", context.whole(name, "scores", op.scores)?),
            ("rows", Bound::Tensor(op.rows)),
            ("count", Bound::Tensor(op.count)),
            ("views", Bound::Tensor(op.views)),
            ("entries", context.whole(name, "entries", op.entries)?),
            ("picks", Bound::Tensor(op.picks)),
            ("out", context.whole(name, "out", op.out)?),
        ],
        grid: [picks, 1, 1],
        work: 8 * u64::from(picks) * u64::from(op.scores.cols),
    };
    Ok(vec![dispatch])
}
