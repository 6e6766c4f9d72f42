use half::slice::HalfFloatSliceExt;
use longwave_contract::kv::{BLOCK, BlockDesc, LatentShape};
use longwave_contract::op::Refer;
use longwave_contract::{BackendError, BufferId, DType, Tensor};
use rayon::prelude::*;

use super::store;
use crate::latent;
use crate::matmul;
use crate::memory::Memory;
use crate::plan::Kernel;
use crate::row::{Matrix, MatrixMut};

/// Candidates that are measured exactly beyond those that are asked for, since the first ranking rounds.
const SPARE: usize = 4;

/// See [`Refer`].
pub(super) fn run(op: &Refer, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.residual, |memory, mut residual| match op.base {
        Some(base) => memory.lend(base, |memory, mut base| {
            refer(op, memory, &mut residual, Some(&mut base))
        }),
        None => refer(op, memory, &mut residual, None),
    })
}

fn refer(
    op: &Refer,
    memory: &mut Memory,
    residual: &mut MatrixMut<'_>,
    mut base: Option<&mut MatrixMut<'_>>,
) -> Result<(), BackendError> {
    let name = Refer::NAME;
    memory.lend(op.latents, |memory, mut latents| {
        let count = memory.count(name, op.count, op.blocks.rows)?;
        let staged = memory.matrix(op.staged)?;
        let blocks = store::blocks(name, &memory.matrix(op.blocks)?, count, op.staged.rows)?;
        let entries = memory.matrix(op.entries)?.u32s(0);
        let metric = memory.matrix(op.metric)?.f32s(0);
        let tables = Tables {
            shape: op.shape,
            staged,
            mean: memory.matrix(op.mean)?.f32s(0),
            metric,
            roots: metric.iter().map(|weight| weight.sqrt()).collect(),
        };
        let record = |block: &BlockDesc, index| {
            store::record(name, entries, block.blocks, index, op.latents)
        };
        // References first: later blocks refer to those of earlier ones.
        for block in &blocks {
            let at = record(block, block.index)?;
            tables.store_references(block, latents.u32s_mut(at));
        }
        let mut candidates = Candidates::default();
        for (number, block) in blocks.iter().enumerate() {
            // Blocks of a sequence follow each other: each adds its references to those of the block before.
            if !candidates.precede(block) {
                candidates = tables.sinks(block);
            }
            for index in candidates.blocks..=block.index {
                let at = record(block, index)?;
                tables.add_references(latents.u32s_mut(at), &mut candidates);
            }
            let chosen = tables.choose(block, &candidates);
            let at = record(block, block.index)?;
            tables.store_ordinals(&chosen, latents.u32s_mut(at));
            let first = number * BLOCK as usize;
            let base_of = |lane: usize| tables.base(lane as u32, &chosen[lane], &candidates.rows);
            residual.for_each_row_from(first, BLOCK as usize, |lane, out| {
                tables.subtract(block, lane as u32, base_of(lane), out);
            });
            if let Some(base) = &mut base {
                base.for_each_row_from(first, BLOCK as usize, |lane, out| match base_of(lane) {
                    Some(found) => out.copy_from_slice(&found),
                    None => out.fill(0.0),
                });
            }
        }
        Ok(())
    })
}

/// The rows that tokens of a block may refer to, by ordinal.
#[derive(Default)]
struct Candidates {
    /// The sequence: where its entries begin, and its sinks.
    of: Option<(u32, u32)>,
    /// Blocks whose references are among them.
    blocks: u32,
    rows: Vec<f32>,
    /// The same around the mean and in the units of the metric, and their squared norms.
    weighed: Vec<f32>,
    norms: Vec<f32>,
}

impl Candidates {
    /// Whether all of them are candidates of a block too.
    fn precede(&self, block: &BlockDesc) -> bool {
        self.of == Some((block.blocks, block.sinks)) && self.blocks <= block.index
    }
}

struct Tables<'a> {
    shape: LatentShape,
    staged: Matrix<'a>,
    mean: &'a [f32],
    metric: &'a [f32],
    /// The roots of the metric.
    roots: Vec<f32>,
}

impl Tables<'_> {
    fn cols(&self) -> usize {
        self.shape.cols as usize
    }

    fn load(&self, row: u32, out: &mut [f32]) {
        self.staged.f16s(row as usize).convert_to_f32_slice(out);
    }

    fn store_references(&self, block: &BlockDesc, record: &mut [u32]) {
        let Some(references) = self.shape.references else {
            return;
        };
        let mut x = vec![0.0; self.cols()];
        for index in 0..self.shape.references_per_block() {
            self.load(block.source + index * references.stride, &mut x);
            let words = &mut record[latent::reference_words(&self.shape, index)];
            latent::store_exact(&self.shape, self.mean, &x, words);
        }
    }

    /// The sinks; none where there are no references.
    fn sinks(&self, block: &BlockDesc) -> Candidates {
        let mut candidates = Candidates {
            of: Some((block.blocks, block.sinks)),
            ..Candidates::default()
        };
        if self.shape.references.is_some() {
            let mut row = vec![0.0; self.cols()];
            for sink in 0..block.sinks {
                self.load(sink, &mut row);
                self.add(&row, &mut candidates);
            }
        }
        candidates
    }

    fn add_references(&self, record: &[u32], candidates: &mut Candidates) {
        let mut row = vec![0.0; self.cols()];
        for index in 0..self.shape.references_per_block() {
            let words = &record[latent::reference_words(&self.shape, index)];
            latent::load_exact(&self.shape, self.mean, words, &mut row);
            self.add(&row, candidates);
        }
        candidates.blocks += 1;
    }

    fn add(&self, row: &[f32], candidates: &mut Candidates) {
        let weighed = self.weigh(row);
        let norm = weighed.iter().map(|value| value * value).sum();
        candidates.rows.extend(row);
        candidates.weighed.extend(weighed);
        candidates.norms.push(norm);
    }

    /// Around the mean, and in the units of the metric, squares lose less.
    fn weigh(&self, row: &[f32]) -> Vec<f32> {
        let parts = row.iter().zip(self.mean).zip(&self.roots);
        parts.map(|((x, mean), root)| (x - mean) * root).collect()
    }

    /// The ordinals of each token's references; none for tokens that are references or have none.
    fn choose(&self, block: &BlockDesc, candidates: &Candidates) -> Vec<Vec<u16>> {
        let Some(references) = self.shape.references else {
            return vec![Vec::new(); BLOCK as usize];
        };
        let (cols, lanes) = (self.cols(), BLOCK as usize);
        let mut rows = vec![0.0; lanes * cols];
        for (lane, row) in rows.chunks_exact_mut(cols).enumerate() {
            self.load(block.source + lane as u32, row);
        }
        let weighed = rows.chunks_exact(cols).flat_map(|row| self.weigh(row));
        let input: Vec<f32> = weighed.collect();
        let norms = &candidates.norms;
        let tensor = Tensor::new(BufferId(0), DType::F32, norms.len() as u32, cols as u32);
        let matrix = Matrix::new(bytemuck::cast_slice(&candidates.weighed), tensor);
        let product = matmul::multiply(Kernel::Gemm, &[matrix], &input, lanes);
        let earlier = block.sinks + block.index * self.shape.references_per_block();
        let choose = |lane: usize| {
            if self.shape.is_reference(lane as u32) {
                return Vec::new();
            }
            let visible = (earlier + lane as u32 / references.stride + 1) as usize;
            let mut dots = vec![0.0; norms.len()];
            product.copy_row(0, lane, &mut dots);
            let wanted = references.neighbours as usize;
            let mut near: Vec<(f32, usize)> = (0..visible)
                .map(|ordinal| (norms[ordinal] - 2.0 * dots[ordinal], ordinal))
                .collect();
            let spare = (wanted + SPARE).min(near.len());
            if spare < near.len() {
                near.select_nth_unstable_by(spare, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                near.truncate(spare);
            }
            let x = &rows[lane * cols..][..cols];
            let mut exact: Vec<(f64, usize)> = near
                .into_iter()
                .map(|(_, ordinal)| {
                    let distance =
                        distance(x, &candidates.rows[ordinal * cols..][..cols], self.metric);
                    (distance, ordinal)
                })
                .collect();
            exact.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let nearest = exact.first().map_or(0, |found| found.1);
            let found = exact.iter().map(|found| found.1);
            found
                .chain(std::iter::repeat(nearest))
                .take(wanted)
                .map(|ordinal| ordinal as u16)
                .collect()
        };
        (0..lanes).into_par_iter().map(choose).collect()
    }

    fn store_ordinals(&self, chosen: &[Vec<u16>], record: &mut [u32]) {
        for (lane, chosen) in chosen
            .iter()
            .enumerate()
            .filter(|(_, chosen)| !chosen.is_empty())
        {
            let words = self.shape.ordinal_words() as usize;
            let at = self.shape.ordinals_at() as usize
                + self.shape.coded_index(lane as u32) as usize * words;
            let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut record[at..][..words]);
            halves.fill(0);
            halves[..chosen.len()].copy_from_slice(chosen);
        }
    }

    /// What a token is taken against; nothing for one that is a reference.
    fn base(&self, lane: u32, chosen: &[u16], candidates: &[f32]) -> Option<Vec<f32>> {
        (!self.shape.is_reference(lane)).then(|| mean_of(chosen, candidates, self.mean))
    }

    fn subtract(&self, block: &BlockDesc, lane: u32, base: Option<Vec<f32>>, out: &mut [f32]) {
        let Some(base) = base else {
            out.fill(0.0);
            return;
        };
        self.load(block.source + lane, out);
        for (out, base) in out.iter_mut().zip(base) {
            *out -= base;
        }
    }
}

/// The mean of the rows that ordinals name, or the layer's mean where there are none.
fn mean_of(chosen: &[u16], rows: &[f32], mean: &[f32]) -> Vec<f32> {
    let cols = mean.len();
    if chosen.is_empty() {
        return mean.to_vec();
    }
    let mut sum = vec![0.0f32; cols];
    for &ordinal in chosen {
        let row = &rows[usize::from(ordinal) * cols..][..cols];
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value;
        }
    }
    let share = 1.0 / chosen.len() as f32;
    sum.iter().map(|value| value * share).collect()
}

fn distance(x: &[f32], candidate: &[f32], metric: &[f32]) -> f64 {
    // Eight sums side by side, so that one need not wait for the other.
    let mut sums = [0.0f64; 8];
    let parts = x.chunks(8).zip(candidate.chunks(8)).zip(metric.chunks(8));
    for ((x, candidate), metric) in parts {
        let parts = x.iter().zip(candidate).zip(metric);
        for (sum, ((x, candidate), metric)) in sums.iter_mut().zip(parts) {
            *sum += f64::from(*metric) * (f64::from(*x) - f64::from(*candidate)).powi(2);
        }
    }
    sums.iter().sum()
}
