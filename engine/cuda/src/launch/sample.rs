//! `sample`: the best of each chunk of tokens, into scratch 0; where rows draw, a histogram of each row into scratch 1, then what chunks weigh into
//! scratch 2 and the tokens whose rank decides into scratch 3; then one block a row, which chooses.

use longwave_contract::BackendError;
use longwave_contract::op::Sample;

use super::{Argument, Context, Dispatch, dispatch, unsupported};

/// Tokens of a chunk.
const CHUNK: u32 = 2048;
/// Chunks of a row: a block's thread for each.
const CHUNKS: u32 = 256;
/// Bytes of a row's histogram, and of a place in the order of tokens or a sum.
const HEAD: u32 = 3088;
const WIDE: u32 = 8;
/// Blocks of a grid's second axis.
const ROWS: u32 = 65_535;

/// # Errors
/// [`BackendError::Unsupported`] for more than 524,288 tokens, and for more rows than a grid has.
pub(super) fn launch(op: &Sample, _: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let (rows, vocabulary) = (op.logits.rows, op.logits.cols);
    let chunks = vocabulary.div_ceil(CHUNK);
    if chunks > CHUNKS {
        return Err(unsupported(Sample::NAME, format!("{vocabulary} tokens")));
    }
    if rows > ROWS {
        return Err(unsupported(Sample::NAME, format!("{rows} rows")));
    }
    let scratch = |index, bytes: u32| {
        // Where no row draws, all but the first is left alone.
        let bytes = if op.draws || index == 0 { bytes } else { WIDE };
        Argument::Scratch {
            index,
            bytes: u64::from(rows) * u64::from(bytes),
        }
    };
    let shared: [(&str, Argument); 10] = [
        ("logits", op.logits.into()),
        ("samplings", op.samplings.into()),
        ("recent", op.recent.into()),
        ("count", op.count.into()),
        ("firsts", scratch(0, chunks * WIDE)),
        ("heads", scratch(1, HEAD)),
        ("rows", rows.into()),
        ("vocabulary", vocabulary.into()),
        ("pitch", vocabulary.next_multiple_of(4).into()),
        ("recents", op.recent.cols.into()),
    ];
    let chunks_each = [("chunks", chunks.into())];
    let draws = [("draws", u32::from(op.draws).into())];
    let lists = [
        ("sums", scratch(2, chunks * WIDE)),
        ("listed", scratch(3, vocabulary * WIDE)),
    ];
    let out = [("out", op.out.into())];
    let kernel = |name, more: &[&[(&str, Argument)]], grid| {
        let arguments = [&[&shared[..], &chunks_each], more].concat().concat();
        dispatch(name, &[], &arguments, grid)
    };
    let all = [chunks, rows, 1];
    let mut dispatches = vec![kernel("sample_scan", &[&draws], all)?];
    if op.draws {
        dispatches.push(kernel("sample_count", &[], all)?);
        dispatches.push(kernel("sample_list", &[&lists], all)?);
    }
    dispatches.push(kernel(
        "sample_draw",
        &[&lists, &draws, &out],
        [rows, 1, 1],
    )?);
    Ok(dispatches)
}
