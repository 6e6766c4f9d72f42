//! Snapshots: what the cache holds of a sequence, apart from any device.

use longwave_contract::Tensor;
use longwave_contract::kv::PAGE;

use super::Engine;
use crate::error::Error;
use crate::kv::{Sequence, SequenceId};

/// A sequence as the cache holds it, byte for byte as on a device: an engine of the same model, policy and codecs goes on from it on any backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The tokens, by position.
    pub tokens: Vec<u32>,
    /// Latent blocks of each layer that compresses.
    pub blocks: u32,
    /// What each layer holds.
    pub layers: Vec<LayerSnapshot>,
}

/// What one layer holds of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerSnapshot {
    /// Raw rows by position, `f16[rows, 2 * kv_heads * head_dim]`: of all tokens, or of sinks and tail.
    pub raw: Vec<u8>,
    /// Blocks in order; empty where the layer does not compress.
    pub blocks: Vec<u8>,
}

/// A run of rows that lie one after another: the first, and how many.
type Run = (u32, u32);

/// Joins rows that lie one after another.
fn runs(rows: impl IntoIterator<Item = Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for (first, count) in rows {
        match joined.last_mut() {
            Some((start, length)) if *start + *length == first => *length += count,
            _ if count > 0 => joined.push((first, count)),
            _ => {}
        }
    }
    joined
}

/// The rows of pages that hold `rows` tokens from the first page's first lane on.
fn paged(pages: &[u32], rows: u32) -> impl Iterator<Item = Run> {
    let filled = move |index: u32| rows.saturating_sub(index * PAGE).min(PAGE);
    (0..)
        .zip(pages)
        .map(move |(index, &page)| (page * PAGE, filled(index)))
}

fn unfit(what: String) -> Error {
    Error::Parameter(format!("the snapshot does not fit: {what}"))
}

impl Engine {
    /// Where a layer keeps a sequence's raw rows, and its blocks where it compresses.
    fn places(&self, layer: usize, sequence: &Sequence) -> [Option<(Tensor, Vec<Run>)>; 2] {
        let (raw, latents) = (self.pool.raw(layer), self.pool.latents(layer));
        let length = sequence.len();
        let rows = match latents {
            None => runs(paged(&sequence.pages, length)),
            Some(_) => {
                let sinks = self.sinks().min(length);
                let pages = self.sinks().div_ceil(PAGE) as usize;
                let (first, rest) = sequence.tail.split_at(pages.min(sequence.tail.len()));
                let tail = length - sinks - sequence.compressed().min(length - sinks);
                runs(paged(first, sinks).chain(paged(rest, tail)))
            }
        };
        let blocks = sequence.blocks.iter().map(|&block| (block, 1));
        [
            Some((raw, rows)),
            latents.map(|latents| (latents, runs(blocks))),
        ]
    }

    /// Reads what the cache holds of a sequence.
    ///
    /// # Errors
    /// There is no such sequence, or the device fails.
    pub fn save(&self, id: SequenceId) -> Result<Snapshot, Error> {
        let sequence = self.sequence(id)?;
        let layers = 0..self.model.config().layers as usize;
        Ok(Snapshot {
            tokens: sequence.tokens.clone(),
            blocks: sequence.blocks.len() as u32,
            layers: layers
                .map(|layer| self.save_layer(id, layer))
                .collect::<Result<_, Error>>()?,
        })
    }

    /// Reads what one layer holds of a sequence.
    ///
    /// # Errors
    /// As [`Engine::save`].
    pub fn save_layer(&self, id: SequenceId, layer: usize) -> Result<LayerSnapshot, Error> {
        let sequence = self.sequence(id)?;
        let read = |place: Option<(Tensor, Vec<Run>)>| {
            let mut bytes = Vec::new();
            for (tensor, (first, count)) in place
                .iter()
                .flat_map(|(tensor, runs)| runs.iter().map(move |run| (tensor, *run)))
            {
                let start = bytes.len();
                bytes.resize(start + (u64::from(count) * tensor.row_bytes()) as usize, 0);
                let at = tensor.offset + u64::from(first) * tensor.row_bytes();
                self.backend.read(tensor.buffer, at, &mut bytes[start..])?;
            }
            Ok::<_, Error>(bytes)
        };
        let [raw, blocks] = self.places(layer, sequence);
        Ok(LayerSnapshot {
            raw: read(raw)?,
            blocks: read(blocks)?,
        })
    }

    /// Starts a sequence that goes on from a snapshot.
    ///
    /// # Errors
    /// The snapshot is of another shape of model or codec, which is named; the cache is full; or the device fails. No sequence is left then.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<SequenceId, Error> {
        let (found, layers) = (snapshot.layers.len(), self.model.config().layers as usize);
        if found != layers {
            return Err(unfit(format!("it has {found} layers, the model {layers}")));
        }
        let layer = |layer: usize| Ok::<_, Error>(snapshot.layers[layer].clone());
        self.load_from(&snapshot.tokens, snapshot.blocks, layer)
    }

    /// Starts a sequence that goes on from a snapshot of `tokens`, `blocks` of them latent blocks, with one layer of it in memory at a time.
    ///
    /// # Errors
    /// As [`Engine::load`], and whatever `layer` gives.
    pub fn load_from<E: From<Error>>(
        &mut self,
        tokens: &[u32],
        blocks: u32,
        layer: impl FnMut(usize) -> Result<LayerSnapshot, E>,
    ) -> Result<SequenceId, E> {
        let id = self.start();
        let loaded = self.fill_from(id, (tokens, blocks), layer);
        if loaded.is_err() {
            self.end(id);
        }
        loaded.map(|()| id)
    }

    fn fill_from<E: From<Error>>(
        &mut self,
        id: SequenceId,
        (tokens, blocks): (&[u32], u32),
        mut layer: impl FnMut(usize) -> Result<LayerSnapshot, E>,
    ) -> Result<(), E> {
        self.check_tokens(0, tokens)?;
        let sinks = self.sinks();
        let length = tokens.len() as u32;
        let most = length.saturating_sub(sinks) / longwave_contract::kv::BLOCK;
        let compresses = self.layered.is_some();
        if blocks > most || (blocks > 0 && !compresses) {
            return Err(unfit(format!("{blocks} blocks of {length} tokens")).into());
        }
        if length > 0 {
            self.make_room(&[(id, length)])?;
        }
        let mut sequence = Sequence {
            tokens: tokens.to_vec(),
            generation: self.sequence(id)?.generation,
            ..Sequence::default()
        };
        sequence.pages = self.pool.pages.take(sequence.missing_pages(length))?;
        if compresses {
            // What was taken goes back with the sequence where the rest is not to be had.
            let blocks = self.pool.blocks.take(blocks);
            sequence.blocks = self.keep(id, &sequence, blocks)?;
            let tail = self.pool.tail.take(sequence.tail_pages(length, sinks));
            sequence.tail = self.keep(id, &sequence, tail)?;
        }
        self.sequences.insert(id, sequence.clone());
        for index in 0..self.model.config().layers as usize {
            let held = layer(index)?;
            let parts = self.places(index, &sequence);
            for ((part, bytes), what) in parts
                .into_iter()
                .zip([&held.raw, &held.blocks])
                .zip(["raw rows", "blocks"])
            {
                let (tensor, runs) = match part {
                    Some(part) => part,
                    None if bytes.is_empty() => continue,
                    None => return Err(unfit(format!("layer {index} has no {what}")).into()),
                };
                let rows: u64 = runs.iter().map(|(_, count)| u64::from(*count)).sum();
                let expected = rows * tensor.row_bytes();
                if bytes.len() as u64 != expected {
                    let found = bytes.len();
                    let what = format!("{what} of layer {index}: {found} bytes, not {expected}");
                    return Err(unfit(what).into());
                }
                let mut rest = bytes.as_slice();
                for (first, count) in runs {
                    let (now, later) =
                        rest.split_at((u64::from(count) * tensor.row_bytes()) as usize);
                    let at = tensor.offset + u64::from(first) * tensor.row_bytes();
                    self.backend
                        .write(tensor.buffer, at, now)
                        .map_err(Error::from)?;
                    rest = later;
                }
            }
        }
        Ok(())
    }

    /// Passes on what was taken; where nothing was, the sequence holds what it has so far, so that ending it gives that back.
    fn keep(
        &mut self,
        id: SequenceId,
        so_far: &Sequence,
        taken: Result<Vec<u32>, Error>,
    ) -> Result<Vec<u32>, Error> {
        if taken.is_err() {
            self.sequences.insert(id, so_far.clone());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_neighbouring_pages_are_one_run() {
        assert_eq!(runs(paged(&[3, 4, 7], 70)), [(96, 64), (224, 6)]);
        assert_eq!(runs(paged(&[3, 4], 32)), [(96, 32)]);
        assert_eq!(runs(paged(&[], 0)), []);
        assert_eq!(runs([(1, 1), (2, 1), (4, 1)]), [(1, 2), (4, 1)]);
    }
}
