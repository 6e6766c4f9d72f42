use half::f16;
use half::slice::HalfFloatSliceExt;
use longwave_contract::BackendError;
use longwave_contract::kv::{ComponentDesc, LatentShape, StoreDesc};
use longwave_contract::op::Unpack;
use rayon::prelude::*;

use super::pack::components;
use super::store::{self, Named, Place, Restored};
use crate::error::misfit;
use crate::latent;
use crate::memory::Memory;
use crate::row::{Matrix, MatrixMut};

/// See [`Unpack`].
pub(super) fn run(op: &Unpack, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| match op.z {
        Some(z) => memory.lend(z, |memory, mut z| {
            unpack(op, memory, &mut out, Some(&mut z))
        }),
        None => unpack(op, memory, &mut out, None),
    })
}

fn unpack(
    op: &Unpack,
    memory: &Memory,
    out: &mut MatrixMut<'_>,
    z: Option<&mut MatrixMut<'_>>,
) -> Result<(), BackendError> {
    let name = Unpack::NAME;
    let count = memory.count(name, op.count, op.out.rows)?;
    let rows = Restored {
        op: name,
        tokens: Named::new(op.tokens, memory)?,
        stores: memory.matrix(op.stores)?,
        pitch: op.pitch,
        first: op.first,
    };
    let mean = memory.matrix(op.mean)?;
    let source = Source {
        shape: op.shape,
        entries: memory.matrix(op.entries)?.u32s(0),
        raw: memory.matrix(op.raw)?,
        mean: mean.f32s(0),
        offset: (mean.rows() == 2).then(|| mean.f32s(1)),
        components: components(&memory.matrix(op.components)?),
        latents: memory.matrix(op.latents)?,
    };
    let rank = op.shape.rank as usize;
    // Each row's base and latents, or where its contents did not fit.
    let restore = |row: usize, x: &mut [f32], z: &mut [f32]| -> Result<(), BackendError> {
        x.fill(0.0);
        z.fill(0.0);
        match rows.token(row)? {
            Some((store, position)) => source.read(&store, position, x, z),
            None => Ok(()),
        }
    };
    match z {
        Some(z) => {
            let (out, z) = (out.rows_mut(count), z.rows_mut(count));
            out.zip(z)
                .enumerate()
                .try_for_each(|(row, (x, z))| restore(row, x, z))
        }
        None => out.rows_mut(count).enumerate().try_for_each(|(row, x)| {
            let mut z = vec![0.0; rank];
            restore(row, x, &mut z)?;
            for (x, z) in x.iter_mut().zip(&z) {
                *x += z;
            }
            Ok(())
        }),
    }
}

struct Source<'a> {
    shape: LatentShape,
    entries: &'a [u32],
    raw: Matrix<'a>,
    mean: &'a [f32],
    offset: Option<&'a [f32]>,
    components: Vec<ComponentDesc>,
    latents: Matrix<'a>,
}

impl Source<'_> {
    fn read(
        &self,
        store: &StoreDesc,
        position: u32,
        x: &mut [f32],
        z: &mut [f32],
    ) -> Result<(), BackendError> {
        let (slots, blocks) = (self.raw.rows(), self.latents.rows());
        let place = store::place(Unpack::NAME, store, position, self.entries, slots, blocks)?;
        let (block, lane) = match place {
            Place::Raw(slot) => {
                self.raw.f16s(slot).convert_to_f32_slice(x);
                return Ok(());
            }
            Place::Block(block, lane) => (block, lane),
        };
        let (shape, record) = (&self.shape, self.latents.u32s(block));
        let exact = match shape.references {
            Some(references) if shape.is_reference(lane) => {
                Some(latent::reference_words(shape, lane / references.stride))
            }
            _ => latent::escape_of(shape, record, lane)
                .map(|index| latent::escape_words(shape, index)),
        };
        if let Some(words) = exact {
            latent::load_exact(shape, self.mean, &record[words], x);
            return Ok(());
        }
        self.base(store, latent::ordinals(shape, record, lane), x)?;
        if let Some(offset) = self.offset {
            for (x, offset) in x.iter_mut().zip(offset) {
                *x += offset;
            }
        }
        let halves: &[f16] = bytemuck::cast_slice(record);
        let scales = &halves[latent::scale_halves(shape, lane)];
        let words = &record[latent::code_words(shape, lane)];
        latent::load_codes(shape, &self.components, scales, words, z);
        Ok(())
    }

    /// The mean of a token's references, or the layer's.
    fn base(&self, store: &StoreDesc, ordinals: &[u16], x: &mut [f32]) -> Result<(), BackendError> {
        if ordinals.is_empty() {
            x.copy_from_slice(self.mean);
            return Ok(());
        }
        let mut row = vec![0.0; x.len()];
        let (slots, blocks) = (self.raw.rows(), self.latents.rows());
        let place = |at| store::place(Unpack::NAME, store, at, self.entries, slots, blocks);
        for &ordinal in ordinals {
            let found = store::reference(&self.shape, store.sinks, u32::from(ordinal));
            let position = match found {
                Err(sink) => sink,
                Ok((block, _)) => store
                    .sinks
                    .saturating_add(block.saturating_mul(longwave_contract::kv::BLOCK)),
            };
            match (place(position)?, found) {
                (Place::Raw(slot), Err(_)) => self.raw.f16s(slot).convert_to_f32_slice(&mut row),
                (Place::Block(block, _), Ok((_, index))) => {
                    let words = latent::reference_words(&self.shape, index);
                    let record = self.latents.u32s(block);
                    latent::load_exact(&self.shape, self.mean, &record[words], &mut row);
                }
                _ => {
                    let expected = "ordinals of references before the token";
                    return Err(misfit(Unpack::NAME, "latents", expected, ordinal));
                }
            }
            for (x, value) in x.iter_mut().zip(&row) {
                *x += value;
            }
        }
        let share = 1.0 / ordinals.len() as f32;
        x.iter_mut().for_each(|x| *x *= share);
        Ok(())
    }
}
