//! `select`: three rounds of a radix select that many workgroups share, how many each of them holds of what stays, and the result.

use longwave_contract::BackendError;
use longwave_contract::op::{Select, Selected};

use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// Candidates that are worth a workgroup of their own.
const PART: u32 = 4096;
/// Parts of a pick's candidates at most: all parts' counts of the first digit are read by each.
const PARTS: u32 = 64;
/// Words of counts of the first digit, for each part, and of the second and third.
const BINS: (u32, u32) = (512, 2 * 2048);
/// Words of the thresholds.
const THRESHOLDS: u32 = 6;

/// # Errors
/// [`BackendError::Unsupported`] for more picks than a grid has workgroups, and operands that exceed a binding.
pub(super) fn launch(op: &Select, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let name = Select::NAME;
    let picks = op.picks.rows;
    if picks > context.caps.workgroups_per_axis {
        return Err(unsupported(name, format!("{picks} picks")));
    }
    let parts = op.scores.cols.div_ceil(PART).clamp(1, PARTS);
    let work_pitch = parts * (BINS.0 + 2) + BINS.1 + THRESHOLDS;
    let work = context.scratch(name, 0, u64::from(picks) * u64::from(work_pitch) * 4)?;
    let ranking = [
        ("picks", picks.into()),
        ("parts", parts.into()),
        ("scores_pitch", op.scores.cols.next_multiple_of(4).into()),
        ("work_pitch", work_pitch.into()),
        (
            "overlap",
            op.overlap
                .map_or(u32::MAX, |overlap| overlap.min(1000))
                .into(),
        ),
    ];
    let bindings = vec![
        ("scores", context.whole(name, "scores", op.scores)?),
        ("rows", Bound::Tensor(op.rows)),
        ("count", Bound::Tensor(op.count)),
        ("picks", Bound::Tensor(op.picks)),
        ("work", work),
    ];
    let dispatch = |stem, more: &[_], bindings| {
        let kernel = kernel(stem, &[])?;
        let values = [&ranking[..], more].concat();
        Ok::<_, BackendError>(Dispatch {
            kernel,
            overrides: Vec::new(),
            params: params(kernel, &values)?,
            bindings,
            grid: [parts, picks, 1],
            work: 2 * u64::from(picks) * u64::from(op.scores.cols),
        })
    };
    let mut dispatches = Vec::new();
    for known in 0..3u32 {
        let digits = dispatch(
            "select_digits",
            &[("known", known.into())],
            bindings.clone(),
        )?;
        dispatches.push(digits);
    }
    dispatches.push(dispatch("select_count", &[], bindings.clone())?);
    let write = [
        ("out_pitch", op.out.cols.next_multiple_of(4).into()),
        ("capacity", op.out.cols.into()),
        ("first_slot", 0.into()),
        ("slots", u32::MAX.into()),
        ("places", u32::from(op.yields == Selected::Tokens).into()),
    ];
    let views = [
        ("views", Bound::Tensor(op.views)),
        ("entries", context.whole(name, "entries", op.entries)?),
        ("out", context.whole(name, "out", op.out)?),
    ];
    dispatches.push(dispatch(
        "select_write",
        &write,
        [bindings, views.to_vec()].concat(),
    )?);
    Ok(dispatches)
}
