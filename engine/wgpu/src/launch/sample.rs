//! `sample`: the best of each chunk of tokens, into scratch 0; where rows draw, a histogram of each row into scratch 1, then what chunks weigh into
//! scratch 2 and the tokens whose rank decides into scratch 3; then one workgroup a row, which chooses.

use longwave_contract::BackendError;
use longwave_contract::op::Sample;

use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// Tokens of a chunk.
const CHUNK: u32 = 2048;
/// Chunks of a row: a workgroup's thread for each.
const CHUNKS: u32 = 256;
/// Words of a row's histogram.
const HEAD: u32 = 1028;

/// # Errors
/// [`BackendError::Unsupported`] for more than 524,288 tokens, more rows than a grid has workgroups, and operands that exceed a binding.
pub(super) fn launch(op: &Sample, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let name = Sample::NAME;
    let (rows, vocabulary) = (op.logits.rows, op.logits.cols);
    let chunks = vocabulary.div_ceil(CHUNK);
    if chunks > CHUNKS {
        return Err(unsupported(name, format!("{vocabulary} tokens")));
    }
    if rows > context.caps.workgroups_per_axis {
        return Err(unsupported(name, format!("{rows} rows")));
    }
    let scratch = |index, words: u32| {
        // Rows that do not draw leave all but the first alone.
        let words = if op.draws || index == 0 { words } else { 4 };
        let bytes = 4 * u64::from(rows) * u64::from(words);
        context.scratch(name, index, bytes.next_multiple_of(16))
    };
    let shared = [
        ("logits", context.whole(name, "logits", op.logits)?),
        ("samplings", Bound::Tensor(op.samplings)),
        ("recent", context.whole(name, "recent", op.recent)?),
        ("count", Bound::Tensor(op.count)),
        ("firsts", scratch(0, 2 * chunks)?),
        ("heads", scratch(1, HEAD)?),
        ("sums", scratch(2, 2 * chunks)?),
        ("listed", scratch(3, 2 * vocabulary)?),
        ("out", Bound::Tensor(op.out)),
    ];
    let values = [
        ("rows", rows.into()),
        ("vocabulary", vocabulary.into()),
        ("pitch", vocabulary.next_multiple_of(4).into()),
        ("recents", op.recent.cols.into()),
        ("chunks", chunks.into()),
        ("draws", u32::from(op.draws).into()),
        ("zero", 0.into()),
    ];
    let all = [chunks, rows, 1];
    let stems: &[(&str, [u32; 3])] = match op.draws {
        false => &[("sample_scan", all), ("sample_draw", [rows, 1, 1])],
        true => &[
            ("sample_scan", all),
            ("sample_count", all),
            ("sample_list", all),
            ("sample_draw", [rows, 1, 1]),
        ],
    };
    let dispatch = |&(stem, grid): &(&str, [u32; 3])| {
        let kernel = kernel(stem, &[])?;
        let takes = |(name, _): &(&str, Bound)| kernel.binding(name).is_some();
        Ok(Dispatch {
            kernel,
            overrides: Vec::new(),
            params: params(kernel, &values)?,
            bindings: shared.iter().copied().filter(takes).collect(),
            grid,
            work: 8 * u64::from(rows) * u64::from(vocabulary),
        })
    };
    stems.iter().map(dispatch).collect()
}
