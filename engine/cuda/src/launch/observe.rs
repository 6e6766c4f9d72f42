//! `observe`: logits of all heads into scratch 0, with a record of each tile of candidates in scratch 1; their totals into scratch 2; then scores.
//! Where the logits of all heads take too much memory, units of four heads take turns.

use longwave_contract::BackendError;
use longwave_contract::op::Observe;

use super::{Argument, Context, Dispatch, WARP, dispatch, threads, unsupported};

/// Query heads of a unit, which share the reads of a key head.
const HEADS: u32 = 4;
/// Candidates of a tile.
const TILE: u32 = 128;
/// Bytes of logits at a time, where a single unit does not take more.
const LOGITS: u64 = 256 << 20;
/// Blocks of a grid's second axis.
const PICKS: u32 = 65_535;

/// # Errors
/// [`BackendError::Unsupported`] for heads that are no multiple of 8 or beyond 512 elements, and for more picks than a grid has.
pub(super) fn launch(op: &Observe, _: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let name = Observe::NAME;
    let head_dim = op.shape.head_dim;
    let variant = octets(head_dim)
        .ok_or_else(|| unsupported(name, format!("heads of {head_dim} elements")))?;
    let (picks, capacity) = (op.picks.rows, op.scores.cols);
    if picks > PICKS {
        return Err(unsupported(name, format!("{picks} picks")));
    }
    let group = op.heads() / op.shape.kv_heads;
    let blocks = group.div_ceil(HEADS);
    let all_units = op.shape.kv_heads * blocks;
    let tiles = capacity.div_ceil(TILE);
    let (a_unit, at_once) = turns(picks, capacity, all_units);
    // Each warp takes one unit's heads over one tile.
    let warps = u64::from(threads("observe_logits") / WARP);
    let mut dispatches = Vec::new();
    for first_unit in (0..all_units).step_by(at_once as usize) {
        let units = at_once.min(all_units - first_unit);
        let scratch = |index, bytes| Argument::Scratch { index, bytes };
        let each = u64::from(picks) * u64::from(units);
        let logits = scratch(0, a_unit * u64::from(units));
        let records = scratch(1, each * u64::from(tiles) * 32);
        let stats = scratch(2, each * 32);
        let pairs = u64::from(units) * u64::from(tiles);
        let groups = u32::try_from(pairs.div_ceil(warps))
            .map_err(|_| unsupported(name, format!("{capacity} candidates")))?;
        dispatches.push(dispatch(
            "observe_logits",
            &[("OCTETS", variant)],
            &[
                ("q", op.q.into()),
                ("kv", op.kv.into()),
                ("rows", op.rows.into()),
                ("count", op.count.into()),
                ("views", op.views.into()),
                ("entries", op.entries.into()),
                ("picks", op.picks.into()),
                ("logits", logits),
                ("records", records),
                ("pick_rows", picks.into()),
                ("first_unit", first_unit.into()),
                ("units", units.into()),
                ("tiles", tiles.into()),
                ("heads", op.heads().into()),
                ("group", group.into()),
                ("blocks", blocks.into()),
                ("octets", (head_dim / 8).into()),
                ("kv_pitch", ((op.shape.raw_bytes() / 16) as u32).into()),
                ("capacity", capacity.into()),
                ("scale", op.scale.into()),
            ],
            [groups, picks, 1],
        )?);
        dispatches.push(dispatch(
            "observe_total",
            &[],
            &[
                ("count", op.count.into()),
                ("picks", op.picks.into()),
                ("records", records),
                ("stats", stats),
                ("pick_rows", picks.into()),
                ("first_unit", first_unit.into()),
                ("group", group.into()),
                ("blocks", blocks.into()),
                ("capacity", capacity.into()),
                ("tiles", tiles.into()),
            ],
            [units, picks, 1],
        )?);
        dispatches.push(dispatch(
            "observe_score",
            &[],
            &[
                ("count", op.count.into()),
                ("picks", op.picks.into()),
                ("logits", logits),
                ("stats", stats),
                ("scores", op.scores.into()),
                ("pick_rows", picks.into()),
                ("units", units.into()),
                ("capacity", capacity.into()),
                ("scores_pitch", capacity.next_multiple_of(4).into()),
                ("resume", u32::from(first_unit > 0).into()),
            ],
            [capacity.div_ceil(threads("observe_score")), picks, 1],
        )?);
    }
    Ok(dispatches)
}

/// The value of the macro OCTETS for heads of so many elements.
fn octets(head_dim: u32) -> Option<&'static str> {
    match head_dim / 8 {
        _ if !head_dim.is_multiple_of(8) => None,
        1..=4 => Some("4"),
        5..=8 => Some("8"),
        9..=16 => Some("16"),
        17..=32 => Some("32"),
        33..=64 => Some("64"),
        _ => None,
    }
}

/// Bytes of one unit's logits, and the units that take part in one turn.
fn turns(picks: u32, capacity: u32, units: u32) -> (u64, u32) {
    let a_unit = u64::from(picks) * u64::from(capacity) * u64::from(4 * HEADS);
    let at_once = (LOGITS / a_unit.max(1)).clamp(1, u64::from(units));
    (a_unit, at_once as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_enough_threads() {
        for head_dim in (8..=512).step_by(8) {
            let threads = octets(head_dim).and_then(|octets| octets.parse::<u32>().ok());
            assert!(threads.is_some_and(|threads| threads >= head_dim / 8));
        }
        assert_eq!((octets(0), octets(84), octets(520)), (None, None, None));
    }

    #[test]
    fn units_take_turns_where_logits_are_many() {
        assert_eq!(turns(1, 131_072, 8), (2 << 20, 8));
        assert_eq!(turns(64, 131_072, 8), (128 << 20, 2));
        assert_eq!(turns(1024, 131_072, 8), (2 << 30, 1));
    }
}
