use std::collections::HashMap;

use longwave_contract::BackendError;
use longwave_contract::kv::{Entry, StoreDesc, Tier};
use longwave_contract::op::{NO_TOKEN, RESIDENT_HEAD, Reside};

use crate::error::misfit;
use crate::memory::Memory;

/// See [`Reside`].
pub(super) fn run(op: &Reside, memory: &mut Memory) -> Result<(), BackendError> {
    let name = Reside::NAME;
    memory.lend(op.resident, |memory, mut resident| {
        let count = memory.count(name, op.count, op.stores.rows)?;
        let slots = op.slots();
        let matrix = memory.matrix(op.stores)?;
        let describe = |index| *bytemuck::from_bytes(bytemuck::cast_slice(matrix.u32s(index)));
        let stores: Vec<StoreDesc> = (0..count).map(describe).collect();
        for (index, store) in stores.iter().enumerate() {
            if store.lane >= op.resident.rows {
                let expected = format_args!("a lane below {}", op.resident.rows);
                return Err(misfit(name, "stores", expected, store.lane));
            }
            let most = op.tokens.cols.min(slots);
            if store.chosen > most || store.chosen > store.length {
                let expected = format_args!("at most {most} chosen tokens in store {index}");
                return Err(misfit(name, "stores", expected, store.chosen));
            }
        }
        let mut missing: Vec<[u32; 4]> = Vec::new();
        memory.lend(op.out, |memory, mut out| {
            let tokens = memory.matrix(op.tokens)?;
            for (index, store) in stores.iter().enumerate() {
                let chosen = &tokens.u32s(index)[..store.chosen as usize];
                let ascend = chosen.is_sorted_by(|a, b| a < b);
                if !ascend || chosen.last().is_some_and(|&last| last >= store.length) {
                    let expected = format_args!("ascending positions below {}", store.length);
                    return Err(misfit(name, "tokens", expected, format_args!("{chosen:?}")));
                }
                let lane = Lane::new(resident.u32s_mut(store.lane as usize), slots as usize);
                let (places, missed) = lane.place(store, chosen);
                let row = out.u32s_mut(index);
                row.fill(0);
                for (entry, slot) in row.iter_mut().zip(&places) {
                    let found = Entry::new(Tier::Scratch, store.lane * slots + slot);
                    *entry = found.map_or(0, |entry| entry.0);
                }
                let rows = missed.into_iter().map(|at| {
                    let slot = store.lane * slots + places[at];
                    [index as u32, chosen[at], slot, 0]
                });
                missing.extend(rows);
            }
            Ok(())
        })?;
        if missing.len() > op.misses.rows as usize {
            let expected = format_args!("room for {} tokens", missing.len());
            return Err(misfit(name, "misses", expected, op.misses.rows));
        }
        memory.lend(op.misses, |_, mut misses| {
            for (index, miss) in missing.iter().enumerate() {
                misses.u32s_mut(index).copy_from_slice(miss);
            }
            Ok(())
        })?;
        memory.lend(op.counts, |_, mut counts| {
            for tile in 0..op.counts.rows {
                let before = tile.saturating_mul(op.tile);
                let rest = (missing.len() as u32).saturating_sub(before);
                counts.u32s_mut(tile as usize)[0] = rest.min(op.tile);
            }
            Ok(())
        })
    })
}

/// What a lane's slots hold.
struct Lane<'a> {
    head: &'a mut [u32],
    tokens: &'a mut [u32],
    stamps: &'a mut [u32],
}

impl<'a> Lane<'a> {
    fn new(row: &'a mut [u32], slots: usize) -> Self {
        let (head, rest) = row.split_at_mut(RESIDENT_HEAD as usize);
        let (tokens, stamps) = rest.split_at_mut(slots);
        Lane {
            head,
            tokens,
            stamps,
        }
    }

    /// The slot of each chosen token, and which of them were not resident.
    fn place(self, store: &StoreDesc, chosen: &[u32]) -> (Vec<u32>, Vec<usize>) {
        let [generation, clock, ..] = self.head else {
            return (Vec::new(), Vec::new());
        };
        let newest = store.length.saturating_sub(1);
        let fresh = *generation != store.generation || *clock == u32::MAX;
        *generation = store.generation;
        *clock = if fresh { 1 } else { *clock + 1 };
        let mut slot_of = HashMap::new();
        for (slot, (token, stamp)) in (0..).zip(self.tokens.iter_mut().zip(self.stamps.iter_mut()))
        {
            if fresh || *token >= newest {
                (*token, *stamp) = (NO_TOKEN, 0);
            } else {
                slot_of.insert(*token, slot);
            }
        }
        let found: Vec<Option<u32>> = chosen
            .iter()
            .map(|token| slot_of.get(token).copied())
            .collect();
        for &slot in found.iter().flatten() {
            self.stamps[slot as usize] = *clock;
        }
        let missed: Vec<usize> = (0..chosen.len())
            .filter(|&at| found[at].is_none())
            .collect();
        let mut free: Vec<(u32, u32)> = (0..)
            .zip(self.stamps.iter())
            .filter(|(_, stamp)| **stamp != *clock)
            .map(|(slot, &stamp)| (stamp, slot))
            .collect();
        free.sort_unstable();
        let mut given: Vec<u32> = free.into_iter().map(|(_, slot)| slot).collect();
        given.truncate(missed.len());
        given.sort_unstable();
        let mut places: Vec<u32> = found.iter().map(|slot| slot.unwrap_or(0)).collect();
        for (&at, slot) in missed.iter().zip(given) {
            places[at] = slot;
            self.tokens[slot as usize] = chosen[at];
            self.stamps[slot as usize] = *clock;
        }
        (places, missed)
    }
}
