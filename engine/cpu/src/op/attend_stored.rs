use half::f16;
use half::slice::HalfFloatSliceExt;
use longwave_contract::BackendError;
use longwave_contract::kv::{ComponentDesc, StoreDesc};
use longwave_contract::op::{AttendStored, ROPE_LOW};
use rayon::prelude::*;

use super::descriptor;
use super::store::{self, Place};
use crate::error::misfit;
use crate::latent;
use crate::memory::Memory;
use crate::norm::normalise_in_place;
use crate::rotation::Rotation;
use crate::row::Matrix;

/// Tokens whose keys and values a thread has at a time.
const PART: u32 = 64;

/// See [`AttendStored`]. Each token is restored once for all rows' heads; nothing is rounded to f16 on the way.
pub(super) fn run(op: &AttendStored, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| {
        let name = AttendStored::NAME;
        let count = memory.count(name, op.count, op.q.rows)?;
        let (rows, stores) = (memory.matrix(op.rows)?, memory.matrix(op.stores)?);
        let q = memory.matrix(op.q)?;
        let norm = op.k_norm.map(|norm| memory.matrix(norm)).transpose()?;
        let source = Source {
            op,
            entries: memory.matrix(op.entries)?.u32s(0),
            raw: memory.matrix(op.raw)?,
            mean: memory.matrix(op.mean)?.f32s(0),
            norm: norm.map(|norm| norm.f32s(0)),
            rope: memory.matrix(op.rope)?,
            latents: memory.matrix(op.latents)?,
            components: (0..op.latent.rank)
                .map(|index| AttendStored::component(index, op.bits()))
                .collect(),
        };
        let mut results = Vec::with_capacity(count);
        for row in 0..count {
            let desc = descriptor(&rows, row);
            if desc.view as usize >= stores.rows() {
                let expected = format_args!("a store below {} in row {row}", stores.rows());
                return Err(misfit(name, "rows", expected, desc.view));
            }
            let store = stores.u32s(desc.view as usize);
            let store: StoreDesc = *bytemuck::from_bytes(bytemuck::cast_slice(store));
            let visible = store.length.min(desc.position.saturating_add(1));
            if visible > op.longest {
                let expected = format_args!("at most {} visible tokens in row {row}", op.longest);
                return Err(misfit(name, "longest", expected, visible));
            }
            results.push(attend(&source, &store, visible, q.f32s(row))?);
        }
        out.for_each_row(count, |row, out| out.copy_from_slice(&results[row]));
        Ok(())
    })
}

/// What each head of a row reads of `visible` tokens of a store.
fn attend(
    source: &Source<'_>,
    store: &StoreDesc,
    visible: u32,
    q: &[f32],
) -> Result<Vec<f32>, BackendError> {
    let shape = source.op.shape;
    let (dim, width) = (shape.head_dim as usize, shape.width() as usize);
    let group = q.len() / width;
    let heads = q.len() / dim;
    let parts: Vec<u32> = (0..visible).step_by(PART as usize).collect();
    let parts: Vec<Vec<Mean>> = parts
        .into_par_iter()
        .map(|first| {
            let mut means = vec![Mean::new(dim); heads];
            for position in first..visible.min(first + PART) {
                let x = source.row(store, position)?;
                let (keys, values) = x.split_at(width);
                for (head, (mean, q)) in means.iter_mut().zip(q.chunks_exact(dim)).enumerate() {
                    let at = head / group * dim;
                    let key = &keys[at..at + dim];
                    let score: f64 = q
                        .iter()
                        .zip(key)
                        .map(|(&q, &k)| f64::from(q) * f64::from(k))
                        .sum();
                    mean.add(score * f64::from(source.op.scale), &values[at..at + dim]);
                }
            }
            Ok(means)
        })
        .collect::<Result<_, BackendError>>()?;
    let mut all = vec![Mean::new(dim); heads];
    for part in &parts {
        all.iter_mut()
            .zip(part)
            .for_each(|(all, part)| all.merge(part));
    }
    Ok(all.iter().flat_map(Mean::values).collect())
}

/// A weighted mean of values that more are added to: weights are exponentials of scores, taken from the largest.
#[derive(Clone)]
struct Mean {
    largest: f64,
    weight: f64,
    sum: Vec<f64>,
}

impl Mean {
    fn new(dim: usize) -> Self {
        Mean {
            largest: f64::MIN,
            weight: 0.0,
            sum: vec![0.0; dim],
        }
    }

    fn add(&mut self, score: f64, values: &[f32]) {
        self.refer_to(score);
        let weight = (score - self.largest).exp();
        self.weight += weight;
        for (sum, &value) in self.sum.iter_mut().zip(values) {
            *sum += weight * f64::from(value);
        }
    }

    fn merge(&mut self, other: &Mean) {
        self.refer_to(other.largest);
        let share = (other.largest - self.largest).exp();
        self.weight += share * other.weight;
        for (sum, other) in self.sum.iter_mut().zip(&other.sum) {
            *sum += share * other;
        }
    }

    fn refer_to(&mut self, score: f64) {
        if score > self.largest {
            let keep = (self.largest - score).exp();
            self.largest = score;
            self.weight *= keep;
            self.sum.iter_mut().for_each(|sum| *sum *= keep);
        }
    }

    fn values(&self) -> impl Iterator<Item = f32> + '_ {
        let share = if self.weight > 0.0 {
            1.0 / self.weight
        } else {
            0.0
        };
        self.sum.iter().map(move |sum| (sum * share) as f32)
    }
}

struct Source<'a> {
    op: &'a AttendStored,
    entries: &'a [u32],
    raw: Matrix<'a>,
    mean: &'a [f32],
    norm: Option<&'a [f32]>,
    rope: Matrix<'a>,
    latents: Matrix<'a>,
    components: Vec<ComponentDesc>,
}

impl Source<'_> {
    /// A token's row as attention reads it.
    fn row(&self, store: &StoreDesc, position: u32) -> Result<Vec<f32>, BackendError> {
        let name = AttendStored::NAME;
        let positions = u64::from(self.op.rope.rows - ROPE_LOW) * u64::from(ROPE_LOW);
        if u64::from(position) >= positions {
            let expected = format_args!("a position below {positions}");
            return Err(misfit(name, "stores", expected, position));
        }
        let (slots, blocks) = (self.raw.rows(), self.latents.rows());
        let place = store::place(name, store, position, self.entries, slots, blocks)?;
        let mut x = vec![0.0; self.op.latent.cols as usize];
        match place {
            Place::Raw(slot) => self.raw.f16s(slot).convert_to_f32_slice(&mut x),
            Place::Block(block, lane) => self.load(self.latents.u32s(block), lane, &mut x),
        }
        let keys = &mut x[..self.op.shape.width() as usize];
        if let Some(norm) = self.norm {
            for head in keys.chunks_exact_mut(norm.len()) {
                normalise_in_place(head, norm, self.op.epsilon);
            }
        }
        Rotation::new(&self.rope, position).turn(keys);
        Ok(x)
    }

    /// The row of a token in a block: its latents, rotated back around the mean.
    fn load(&self, record: &[u32], lane: u32, x: &mut [f32]) {
        let shape = &self.op.latent;
        let halves: &[f16] = bytemuck::cast_slice(record);
        let scales = &halves[latent::scale_halves(shape, lane)];
        let words = &record[latent::code_words(shape, lane)];
        latent::load_codes(shape, &self.components, scales, words, x);
        let dim = self.op.shape.head_dim as usize;
        for head in x.chunks_exact_mut(dim) {
            rotate(head);
        }
        for (x, mean) in x.iter_mut().zip(self.mean) {
            *x += mean;
        }
    }
}

/// Multiplies a head by [`AttendStored::rotation`], of which each bit of an index is a stage of sums and differences.
fn rotate(head: &mut [f32]) {
    let mut values: Vec<f64> = head.iter().copied().map(f64::from).collect();
    let mut step = 1;
    while step < values.len() {
        for pair in values.chunks_exact_mut(2 * step) {
            let (low, high) = pair.split_at_mut(step);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        step *= 2;
    }
    let size = 1.0 / (values.len() as f64).sqrt();
    for (x, value) in head.iter_mut().zip(values) {
        *x = (value * size) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_make_the_matrix() {
        let dim = 64;
        for col in 0..dim {
            let mut column = vec![0.0; dim as usize];
            column[col as usize] = 1.0;
            rotate(&mut column);
            for (row, value) in (0..dim).zip(column) {
                assert!((value - AttendStored::rotation(dim, row, col)).abs() < 1e-6);
            }
        }
    }
}
