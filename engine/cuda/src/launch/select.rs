//! `select`: three rounds of a radix select that several blocks of a pick share, and the result: four launches, since one processor would take several times as
//! long to read all candidates as a launch takes.

use longwave_contract::BackendError;
use longwave_contract::op::{Select, Selected};

use super::{Argument, Context, Dispatch, dispatch, unsupported};

/// Candidates that are worth a block of their own.
const PART: u32 = 4096;
/// Parts of a pick's candidates at most: each reads the counts of all.
const PARTS: u32 = 32;
/// Values of the first and of the last digit, which are counted for each part, and of the one between.
const BINS: (u32, u32) = (512, 8192);
/// Words of the thresholds.
const THRESHOLDS: u32 = 4;
/// Blocks of a grid's second axis.
const PICKS: u32 = 65_535;

/// # Errors
/// [`BackendError::Unsupported`] for more picks than a grid has.
pub(super) fn launch(op: &Select, _: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let picks = op.picks.rows;
    if picks > PICKS {
        return Err(unsupported(Select::NAME, format!("{picks} picks")));
    }
    let capacity = op.scores.cols;
    let parts = capacity.div_ceil(PART).clamp(1, PARTS);
    let work_pitch = work_words(parts);
    let work = Argument::Scratch {
        index: 0,
        bytes: u64::from(picks) * u64::from(work_pitch) * 4,
    };
    let overlap = op.overlap.map_or(u32::MAX, |overlap| overlap.min(1000));
    let shared: [(&str, Argument); 11] = [
        ("scores", op.scores.into()),
        ("rows", op.rows.into()),
        ("count", op.count.into()),
        ("picks", op.picks.into()),
        ("work", work),
        ("pick_rows", picks.into()),
        ("parts", parts.into()),
        ("capacity", capacity.into()),
        ("scores_pitch", capacity.next_multiple_of(4).into()),
        ("work_pitch", work_pitch.into()),
        ("overlap", overlap.into()),
    ];
    let grid = [parts, picks, 1];
    let digits = |digit| dispatch("select_digits", &[("DIGIT", digit)], &shared, grid);
    let places = u32::from(op.yields == Selected::Tokens);
    let result = [
        ("views", op.views.into()),
        ("entries", op.entries.into()),
        ("out", op.out.into()),
        ("out_pitch", op.out.cols.next_multiple_of(4).into()),
        ("out_capacity", op.out.cols.into()),
        ("places", places.into()),
    ];
    let arguments = [&shared[..], &result].concat();
    Ok(vec![
        digits("0")?,
        digits("1")?,
        digits("2")?,
        dispatch("select_write", &[], &arguments, grid)?,
    ])
}

/// Words of a pick's working memory, of whole quads: counts of the first digit of each part, of the second, and of the third of each part; each part's
/// candidates above the first two, an even number; thresholds.
fn work_words(parts: u32) -> u32 {
    let counts = 2 * parts * BINS.0 + BINS.1;
    (counts + parts.next_multiple_of(2) + THRESHOLDS).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_memory_is_of_whole_quads() {
        assert_eq!(work_words(1), 9216 + 8);
        assert_eq!(work_words(32), 40_960 + 36);
        assert!((1..=PARTS).all(|parts| work_words(parts).is_multiple_of(4)));
    }
}
