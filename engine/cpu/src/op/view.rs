//! Views and picks, resolved to slots.

use longwave_contract::BackendError;
use longwave_contract::kv::{Entry, PAGE, PickDesc, Tier, ViewDesc};

use super::descriptor as row_descriptor;
use crate::error::misfit;
use crate::row::Matrix;

/// View `index` of a views tensor.
pub(super) fn descriptor(views: &Matrix<'_>, index: usize) -> ViewDesc {
    *bytemuck::from_bytes(bytemuck::cast_slice(views.u32s(index)))
}

/// A pick, and the slots of all tokens that its row sees.
pub(super) struct Pick {
    pub pick: PickDesc,
    pub slots: Vec<u32>,
    /// The position of its row.
    pub position: u32,
}

impl Pick {
    /// The slots of the candidates.
    pub(super) fn candidates(&self) -> &[u32] {
        &self.slots[self.pick.first as usize..][..self.pick.candidates as usize]
    }
}

/// The tensors that say what a pick reads.
pub(super) struct Tables<'a> {
    pub rows: Matrix<'a>,
    pub views: Matrix<'a>,
    pub entries: Matrix<'a>,
    pub picks: Matrix<'a>,
    /// Slots below which all must lie.
    pub slots: u32,
    /// Candidates that a row of scores has room for.
    pub capacity: usize,
}

/// Resolves pick `index`.
///
/// # Errors
/// What it names does not exist, by operand.
pub(super) fn pick(
    op: &'static str,
    tables: &Tables<'_>,
    index: usize,
) -> Result<Pick, BackendError> {
    let pick: PickDesc = *bytemuck::from_bytes(bytemuck::cast_slice(tables.picks.u32s(index)));
    if pick.row as usize >= tables.rows.rows() {
        let expected = format_args!("a row below {} in pick {index}", tables.rows.rows());
        return Err(misfit(op, "picks", expected, pick.row));
    }
    let row = row_descriptor(&tables.rows, pick.row as usize);
    if row.view as usize >= tables.views.rows() {
        let expected = format_args!("a view below {} in row {}", tables.views.rows(), pick.row);
        return Err(misfit(op, "rows", expected, row.view));
    }
    let view = descriptor(&tables.views, row.view as usize);
    let visible = view.visible(row.position);
    let end = u64::from(pick.first) + u64::from(pick.candidates);
    if end > u64::from(visible) || pick.candidates as usize > tables.capacity {
        let expected = format_args!(
            "at most {} candidates within {visible} visible tokens in pick {index}",
            tables.capacity
        );
        let found = format_args!("{} from {}", pick.candidates, pick.first);
        return Err(misfit(op, "picks", expected, found));
    }
    let entries = tables.entries.u32s(0);
    let slots = slots(op, &view, row.view, visible as usize, entries, tables.slots)?;
    Ok(Pick {
        pick,
        slots,
        position: row.position,
    })
}

/// The slots of the first `tokens` tokens of a view.
pub(super) fn slots(
    op: &'static str,
    view: &ViewDesc,
    index: u32,
    tokens: usize,
    entries: &[u32],
    limit: u32,
) -> Result<Vec<u32>, BackendError> {
    if tokens == 0 {
        return Ok(Vec::new());
    }
    if view.run != 1 && view.run != PAGE {
        let expected = format_args!("a run of 1 or {PAGE} in view {index}");
        return Err(misfit(op, "views", expected, view.run));
    }
    let needed = tokens.div_ceil(view.run as usize);
    let named = entries
        .get(view.first as usize..)
        .and_then(|entries| entries.get(..needed));
    let Some(named) = named else {
        let expected = format_args!("entries of view {index} below {}", entries.len());
        let found = format_args!("{needed} from {}", view.first);
        return Err(misfit(op, "views", expected, found));
    };
    let mut slots = Vec::with_capacity(tokens);
    for (at, &bits) in named.iter().enumerate() {
        let entry = Entry(bits);
        let taken = (tokens - slots.len()).min(view.run as usize) as u64;
        let first = u64::from(entry.index()) * u64::from(view.run);
        let readable = matches!(entry.tier(), Some(Tier::Raw | Tier::Scratch));
        if !readable || first + taken > u64::from(limit) {
            let place = view.first as usize + at;
            let expected = format_args!(
                "a raw or scratch entry with slots below {limit} at {place} (view {index})"
            );
            let found = match entry.tier() {
                Some(tier) => format!(
                    "{tier:?} {}, slots {first}..{}",
                    entry.index(),
                    first + taken
                ),
                None => format!("the bits {bits:#x}, which name no tier"),
            };
            return Err(misfit(op, "entries", expected, found));
        }
        slots.extend((first..first + taken).map(|slot| slot as u32));
    }
    Ok(slots)
}
