//! `reside`: one block a store, which finds slots; then one that lists what has to be restored after that of the stores before it.

use longwave_contract::BackendError;
use longwave_contract::op::Reside;

use super::{Argument, Context, Dispatch, dispatch};

/// # Errors
/// None but defects.
pub(super) fn launch(op: &Reside, _: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let (stores, capacity) = (op.stores.rows, op.tokens.cols);
    // How many tokens have no slot, an unused word, and each of them with its slot.
    let found_pitch = 2 + 2 * capacity;
    let found = Argument::Scratch {
        index: 0,
        bytes: 4 * u64::from(stores) * u64::from(found_pitch),
    };
    let grid = [stores, 1, 1];
    let slots = dispatch(
        "reside_slots",
        &[],
        &[
            ("tokens", op.tokens.into()),
            ("stores", op.stores.into()),
            ("count", op.count.into()),
            ("resident", op.resident.into()),
            ("out", op.out.into()),
            ("found", found),
            ("store_rows", stores.into()),
            ("tokens_pitch", capacity.next_multiple_of(4).into()),
            ("capacity", capacity.into()),
            ("lanes", op.resident.rows.into()),
            (
                "resident_pitch",
                op.resident.cols.next_multiple_of(4).into(),
            ),
            ("slots", op.slots().into()),
            ("found_pitch", found_pitch.into()),
        ],
        grid,
    )?;
    let list = dispatch(
        "reside_list",
        &[],
        &[
            ("count", op.count.into()),
            ("found", found),
            ("misses", op.misses.into()),
            ("counts", op.counts.into()),
            ("store_rows", stores.into()),
            ("found_pitch", found_pitch.into()),
            ("rows", op.misses.rows.into()),
            ("tiles", op.counts.rows.into()),
            ("counts_pitch", op.counts.cols.next_multiple_of(4).into()),
            ("tile", op.tile.into()),
        ],
        grid,
    )?;
    Ok(vec![slots, list])
}
