//! What a sequence holds, in bytes.

use std::ops::Range;

use longwave_contract::kv::{BLOCK, PAGE};

use super::{Budget, Engine, Resident, Role};
use crate::error::Error;
use crate::kv::{Sequence, SequenceId};

impl Engine {
    /// Tokens of all sequences whose rows are in the cache; those that several share count once for each.
    pub fn tokens_held(&self) -> u64 {
        let lengths = self.sequences.values().map(|held| u64::from(held.len()));
        lengths.sum()
    }

    /// Bytes of cache that a sequence holds, all layers together: whole pages, blocks, and the scratch rows of a decode step, those that stay
    /// restored included.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn kv_bytes(&self, id: SequenceId) -> Result<u64, Error> {
        let sequence = self.sequence(id)?;
        Ok(sequence.pages.len() as u64 * self.pool.page_bytes()
            + sequence.tail.len() as u64 * self.pool.tail_page_bytes()
            + sequence.blocks.len() as u64 * self.pool.block_bytes()
            + u64::from(self.scratch_rows(sequence)) * self.model.config().shape.raw_bytes()
            + self.resident_bytes(sequence))
    }

    /// Bytes of the rows that stay restored for a sequence of which decode steps leave something out.
    fn resident_bytes(&self, sequence: &Sequence) -> u64 {
        let pick = self.policy.pick(0, sequence);
        let lane = self.resident.as_ref().map_or(0, Resident::lane_bytes);
        if pick.candidates > pick.keep { lane } else { 0 }
    }

    /// Scratch rows that a decode step of a sequence takes and all layers share.
    fn scratch_rows(&self, sequence: &Sequence) -> u32 {
        if self.layered.is_none() {
            return 0;
        }
        let layers = 0..self.model.config().layers;
        let reads_all = |layer: u32| {
            self.policy.codec(layer).is_some() && self.policy.role(layer) != Role::Follow
        };
        let all = sequence.len();
        match self.policy.budget() {
            Some(_) if self.resident_bytes(sequence) > 0 && !layers.clone().any(reads_all) => 0,
            Some(_) if !layers.clone().any(reads_all) => self.policy.pick(0, sequence).length(all),
            _ => all,
        }
    }

    /// The positions of a sequence's history: all but the first tokens and the last ones, which stay exact. Of policies that compress, those
    /// that are in blocks; else all but what [`Budget::default`] keeps.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn history(&self, id: SequenceId) -> Result<Range<u32>, Error> {
        let sequence = self.sequence(id)?;
        Ok(match &self.layered {
            Some(_) => {
                let sinks = self.sinks().min(sequence.len());
                sinks..sinks + sequence.compressed()
            }
            None => {
                let pick = Budget::default().pick(0, sequence.len());
                pick.first..pick.first + pick.candidates
            }
        })
    }

    /// Bytes in which the tokens of a range of positions are stored, all layers together: their raw rows, or their share of their blocks.
    ///
    /// # Errors
    /// When there is no such sequence, or it ends before the range does.
    pub fn stored_bytes(&self, id: SequenceId, positions: Range<u32>) -> Result<u64, Error> {
        let sequence = self.sequence(id)?;
        let length = sequence.len();
        if positions.end > length {
            return Err(Error::Parameter(format!(
                "positions {positions:?} of a sequence of {length} tokens"
            )));
        }
        let tokens = u64::from(positions.end.saturating_sub(positions.start));
        let from = self.sinks();
        let to = from.saturating_add(sequence.compressed());
        let in_blocks = positions
            .end
            .min(to)
            .saturating_sub(positions.start.max(from));
        let (in_blocks, page) = (u64::from(in_blocks), u64::from(PAGE));
        Ok(tokens * self.pool.page_bytes() / page
            + (tokens - in_blocks) * self.pool.tail_page_bytes() / page
            + in_blocks * self.pool.block_bytes() / u64::from(BLOCK))
    }

    /// The blocks of a sequence in one layer, in order, as they lie on the device: complete given their prefix, and never changed.
    ///
    /// # Errors
    /// There is no such sequence, or the layer does not compress.
    pub fn read_blocks(&self, id: SequenceId, layer: usize) -> Result<Vec<u8>, Error> {
        let sequence = self.sequence(id)?;
        let tensor = self
            .pool
            .latents(layer)
            .ok_or_else(|| Error::Parameter(format!("layer {layer} does not compress")))?;
        let each = tensor.row_bytes() as usize;
        let mut bytes = vec![0u8; each * sequence.blocks.len()];
        for (bytes, &block) in bytes.chunks_mut(each.max(1)).zip(&sequence.blocks) {
            let at = tensor.offset + u64::from(block) * tensor.row_bytes();
            self.backend.read(tensor.buffer, at, bytes)?;
        }
        Ok(bytes)
    }
}
