//! Stores and blocks, resolved.

use longwave_contract::kv::{BLOCK, BlockDesc, Entry, LatentShape, PAGE, Slot, StoreDesc};
use longwave_contract::op::Tokens;
use longwave_contract::{BackendError, Tensor};

use crate::error::misfit;
use crate::memory::Memory;
use crate::row::Matrix;

/// Where a token lies.
pub(super) enum Place {
    /// A raw slot.
    Raw(usize),
    /// A lane of a block's record.
    Block(usize, u32),
}

/// The tables by which restored rows are numbered.
pub(super) struct Restored<'a> {
    pub op: &'static str,
    pub tokens: Named<'a>,
    pub stores: Matrix<'a>,
    pub pitch: u32,
    pub first: u32,
}

/// See [`Tokens`].
pub(super) enum Named<'a> {
    All,
    Listed(Matrix<'a>),
    Missing(Matrix<'a>),
}

impl<'a> Named<'a> {
    pub(super) fn new(tokens: Tokens, memory: &'a Memory) -> Result<Self, BackendError> {
        Ok(match tokens {
            Tokens::All => Named::All,
            Tokens::Listed(tensor) => Named::Listed(memory.matrix(tensor)?),
            Tokens::Missing(tensor) => Named::Missing(memory.matrix(tensor)?),
        })
    }
}

impl Restored<'_> {
    /// The slot that a miss is restored to.
    pub(super) fn slot(&self, row: usize) -> Option<u32> {
        match &self.tokens {
            Named::Missing(misses) => Some(misses.u32s(self.first as usize + row)[2]),
            _ => None,
        }
    }

    /// The store of row `row` of the op, and the position of its token; `None` beyond what a sequence restores.
    pub(super) fn token(&self, row: usize) -> Result<Option<(StoreDesc, u32)>, BackendError> {
        let row = self.first + row as u32;
        let (sequence, index) = match &self.tokens {
            Named::Missing(misses) => (misses.u32s(row as usize)[0] as usize, 0),
            _ => ((row / self.pitch) as usize, row % self.pitch),
        };
        if sequence >= self.stores.rows() {
            let expected = format_args!("rows of {} stores", self.stores.rows());
            return Err(misfit(self.op, "count", expected, row));
        }
        let store: StoreDesc =
            *bytemuck::from_bytes(bytemuck::cast_slice(self.stores.u32s(sequence)));
        let position = match &self.tokens {
            Named::All => return Ok((index < store.length).then_some((store, index))),
            Named::Missing(misses) => misses.u32s(row as usize)[1],
            Named::Listed(tokens) if store.chosen as usize > tokens.cols() => {
                let expected = format_args!("at most {} chosen tokens", tokens.cols());
                return Err(misfit(self.op, "stores", expected, store.chosen));
            }
            Named::Listed(_) if index >= store.chosen => return Ok(None),
            Named::Listed(tokens) => tokens.u32s(sequence)[index as usize],
        };
        if position >= store.length {
            let expected = format_args!("a position below {} in list {sequence}", store.length);
            return Err(misfit(self.op, "tokens", expected, position));
        }
        Ok(Some((store, position)))
    }
}

/// The place of a position.
pub(super) fn place(
    op: &'static str,
    store: &StoreDesc,
    position: u32,
    entries: &[u32],
    slots: usize,
    blocks: usize,
) -> Result<Place, BackendError> {
    let entry = |index: u32| {
        let expected = format_args!("an entry below {}", entries.len());
        let found = entries.get(index as usize);
        found
            .map(|&bits| Entry(bits).index())
            .ok_or_else(|| misfit(op, "stores", expected, index))
    };
    let raw = |token: u32, pages: u32| {
        let slot = Slot::new(entry(pages + token / PAGE)?, token % PAGE).0 as usize;
        if slot >= slots {
            return Err(misfit(
                op,
                "entries",
                format_args!("a slot below {slots}"),
                slot,
            ));
        }
        Ok(Place::Raw(slot))
    };
    let Some(after) = position.checked_sub(store.sinks) else {
        return raw(position, store.pages);
    };
    match after.checked_sub(store.compressed) {
        Some(tail) => raw(tail, store.pages + store.sinks.div_ceil(PAGE)),
        None => {
            let block = entry(store.blocks + after / BLOCK)? as usize;
            if block >= blocks {
                let expected = format_args!("a block below {blocks}");
                return Err(misfit(op, "entries", expected, block));
            }
            Ok(Place::Block(block, after % BLOCK))
        }
    }
}

/// The record of block `index` of a sequence whose blocks begin at `first`.
pub(super) fn record(
    op: &'static str,
    entries: &[u32],
    first: u32,
    index: u32,
    latents: Tensor,
) -> Result<usize, BackendError> {
    let found = entries.get(first as usize + index as usize);
    match found.map(|&bits| Entry(bits).index()) {
        Some(block) if block < latents.rows => Ok(block as usize),
        found => {
            let expected = format_args!("a block below {} for block {index}", latents.rows);
            Err(misfit(op, "entries", expected, format_args!("{found:?}")))
        }
    }
}

/// The blocks that count, checked against the staged rows.
pub(super) fn blocks(
    op: &'static str,
    blocks: &Matrix<'_>,
    count: usize,
    staged: u32,
) -> Result<Vec<BlockDesc>, BackendError> {
    let describe = |index| *bytemuck::from_bytes(bytemuck::cast_slice(blocks.u32s(index)));
    let found: Vec<BlockDesc> = (0..count).map(describe).collect();
    for block in &found {
        let end = u64::from(block.source) + u64::from(BLOCK);
        if end > u64::from(staged) || block.sinks > staged {
            let expected = format_args!("{BLOCK} rows and the sinks among {staged} staged ones");
            return Err(misfit(op, "blocks", expected, format_args!("{block:?}")));
        }
    }
    Ok(found)
}

/// Where a reference that an ordinal names lies: a sink, or a block of the sequence and the reference's number in it.
pub(super) fn reference(shape: &LatentShape, sinks: u32, ordinal: u32) -> Result<(u32, u32), u32> {
    let each = shape.references_per_block().max(1);
    match ordinal.checked_sub(sinks) {
        None => Err(ordinal),
        Some(after) => Ok((after / each, after % each)),
    }
}
