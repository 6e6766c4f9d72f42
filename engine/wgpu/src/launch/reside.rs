//! `reside`: one workgroup a store, which finds slots; then one that lists what has to be restored after that of the stores before it.

use longwave_contract::BackendError;
use longwave_contract::op::Reside;

use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// # Errors
/// [`BackendError::Unsupported`] for more stores than a grid has workgroups, and operands that exceed a binding.
pub(super) fn launch(op: &Reside, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let (name, stores, slots) = (Reside::NAME, op.stores.rows, op.slots());
    if stores > context.caps.workgroups_per_axis {
        return Err(unsupported(name, format!("{stores} stores")));
    }
    let capacity = op.tokens.cols;
    let found_pitch = 2 + 2 * capacity;
    let bytes = 4 * u64::from(stores) * u64::from(found_pitch);
    let found = context.scratch(name, 0, bytes.next_multiple_of(16))?;
    let place = kernel("reside_slots", &[])?;
    let values = [
        ("stores", stores.into()),
        ("tokens_pitch", capacity.next_multiple_of(4).into()),
        ("capacity", capacity.into()),
        ("lanes", op.resident.rows.into()),
        (
            "resident_pitch",
            op.resident.cols.next_multiple_of(4).into(),
        ),
        ("slots", slots.into()),
        ("found_pitch", found_pitch.into()),
    ];
    let grid = [stores, 1, 1];
    let slots = Dispatch {
        kernel: place,
        overrides: Vec::new(),
        params: params(place, &values)?,
        bindings: vec![
            ("tokens", context.whole(name, "tokens", op.tokens)?),
            ("stores", Bound::Tensor(op.stores)),
            ("count", Bound::Tensor(op.count)),
            ("resident", context.whole(name, "resident", op.resident)?),
            ("out", context.whole(name, "out", op.out)?),
            ("found", found),
        ],
        grid,
        work: 8 * u64::from(stores) * u64::from(slots + capacity),
    };
    let list = kernel("reside_list", &[])?;
    let values = [
        ("stores", stores.into()),
        ("found_pitch", found_pitch.into()),
        ("rows", op.misses.rows.into()),
        ("tiles", op.counts.rows.into()),
        ("counts_pitch", op.counts.cols.next_multiple_of(4).into()),
        ("tile", op.tile.into()),
    ];
    let list = Dispatch {
        kernel: list,
        overrides: Vec::new(),
        params: params(list, &values)?,
        bindings: vec![
            ("count", Bound::Tensor(op.count)),
            ("found", found),
            ("misses", context.whole(name, "misses", op.misses)?),
            ("counts", context.whole(name, "counts", op.counts)?),
        ],
        grid,
        work: u64::from(stores) * u64::from(capacity),
    };
    Ok(vec![slots, list])
}
