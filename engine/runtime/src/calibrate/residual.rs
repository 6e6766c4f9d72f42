//! What is left of calibration rows once the mean of their references is taken out.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use half::f16;
use half::slice::HalfFloatSliceExt;
use longwave_contract::kv::{BLOCK, EXACT_GROUP, LatentShape, ReferenceShape};
use rayon::prelude::*;

use super::collect::{LayerSample, SINKS};
use super::fit::shape;

/// The share of a token's weight that does not depend on the attention it got: what few queries showed is not all that will be asked.
const EVEN: f32 = 0.5;

/// The whole blocks of a layer's windows.
pub(super) struct Blocks<'a> {
    /// Windows with any, and what is known of the attention that their tokens got.
    windows: Vec<(&'a [f16], &'a [f32])>,
    cols: usize,
}

impl<'a> Blocks<'a> {
    pub fn new(sample: &'a LayerSample) -> Self {
        let cols = sample.metric.len();
        let windows = sample.rows.iter().enumerate().map(|(index, rows)| {
            let attention = sample.attention.get(index).map_or(&[][..], Vec::as_slice);
            (rows.as_slice(), attention)
        });
        Blocks {
            windows: windows
                .filter(|(rows, _)| blocks_of(rows.len() / cols.max(1)) > 0)
                .collect(),
            cols,
        }
    }

    fn blocks_of(&self, window: &[f16]) -> usize {
        blocks_of(window.len() / self.cols)
    }

    pub fn tokens(&self) -> usize {
        let windows = self.windows.iter();
        let blocks = windows.map(|(window, _)| self.blocks_of(window));
        blocks.sum::<usize>() * BLOCK as usize
    }

    /// The weight of an error of each token that is no reference, in the order of [`Blocks::residuals`]; 1 on average over all tokens.
    pub fn weights(&self, references: Option<ReferenceShape>) -> Vec<f32> {
        let shape = shape(self.cols, 0, references, 0);
        let mut weights = Vec::new();
        for (window, known) in &self.windows {
            for token in 0..self.blocks_of(window) as u32 * BLOCK {
                if shape.is_reference(token % BLOCK) {
                    continue;
                }
                let at = (SINKS + token) as usize;
                let given = known.get(at).copied();
                weights.push(EVEN + (1.0 - EVEN) * given.unwrap_or(1.0));
            }
        }
        weights
    }

    /// What is left of every token that is no reference, times the roots of the metric: `[token][cols]`, block after block.
    pub fn residuals(
        &self,
        mean: &[f32],
        roots: &[f32],
        references: Option<ReferenceShape>,
    ) -> Vec<f32> {
        let shape = shape(self.cols, 0, references, 0);
        let windows: Vec<Vec<f32>> = self
            .windows
            .par_iter()
            .map(|(window, _)| {
                let blocks = self.blocks_of(window);
                let tokens = SINKS as usize + blocks * BLOCK as usize;
                let mut rows = vec![0.0f32; tokens * self.cols];
                window[..rows.len()].convert_to_f32_slice(&mut rows);
                let mut stored = rows.clone();
                for row in rows.chunks_exact_mut(self.cols) {
                    weigh(row, mean, roots);
                }
                let Some(references) = references else {
                    return rows.split_off(SINKS as usize * self.cols);
                };
                // The sinks as they are, and then every reference as it is stored.
                let mut candidates = rows[..SINKS as usize * self.cols].to_vec();
                let is_reference = |token: usize| shape.is_reference(token as u32 % BLOCK);
                let history = stored.split_off(SINKS as usize * self.cols);
                for (token, row) in history.chunks_exact(self.cols).enumerate() {
                    if is_reference(token) {
                        let mut row = exact(row, mean);
                        weigh(&mut row, mean, roots);
                        candidates.extend(row);
                    }
                }
                let history = rows.split_off(SINKS as usize * self.cols);
                self.subtract(&history, &candidates, references, &shape)
            })
            .collect();
        windows.concat()
    }

    /// Takes from each token that is no reference the mean of the nearest references that do not come after it.
    fn subtract(
        &self,
        history: &[f32],
        candidates: &[f32],
        references: ReferenceShape,
        shape: &LatentShape,
    ) -> Vec<f32> {
        let cols = self.cols;
        let (tokens, count) = (history.len() / cols, candidates.len() / cols);
        let norms: Vec<f32> = candidates
            .chunks_exact(cols)
            .map(|row| row.iter().map(|value| value * value).sum())
            .collect();
        let x = MatRef::from_row_major_slice(history, tokens, cols);
        let c = MatRef::from_row_major_slice(candidates, count, cols);
        let mut dots = Mat::<f32>::zeros(count, tokens);
        matmul(&mut dots, Accum::Replace, c, x.transpose(), 1.0, Par::Seq);
        let mut out = Vec::with_capacity(history.len());
        for (token, row) in history.chunks_exact(cols).enumerate() {
            let lane = token as u32 % BLOCK;
            if shape.is_reference(lane) {
                continue;
            }
            let earlier = token as u32 / BLOCK * shape.references_per_block();
            let visible = (SINKS + earlier + lane / references.stride + 1) as usize;
            let dots = dots.col(token);
            let mut near: Vec<(f32, usize)> = (0..visible)
                .map(|candidate| (norms[candidate] - 2.0 * dots[candidate], candidate))
                .collect();
            let wanted = (references.neighbours as usize).min(near.len());
            if wanted < near.len() {
                near.select_nth_unstable_by(wanted, |a, b| a.0.total_cmp(&b.0));
                near.truncate(wanted);
            }
            let mut base = vec![0.0f32; cols];
            for &(_, candidate) in &near {
                let row = &candidates[candidate * cols..][..cols];
                for (base, value) in base.iter_mut().zip(row) {
                    *base += value;
                }
            }
            let share = 1.0 / near.len() as f32;
            out.extend(
                row.iter()
                    .zip(&base)
                    .map(|(value, base)| value - base * share),
            );
        }
        out
    }
}

/// Whole blocks of a window of so many tokens.
pub(super) fn blocks_of(tokens: usize) -> usize {
    tokens.saturating_sub(SINKS as usize) / BLOCK as usize
}

/// The difference from the mean, times the roots of the metric.
fn weigh(row: &mut [f32], mean: &[f32], roots: &[f32]) {
    for ((value, mean), root) in row.iter_mut().zip(mean).zip(roots) {
        *value = (*value - mean) * root;
    }
}

/// A row as it is restored from 8 bits.
fn exact(row: &[f32], mean: &[f32]) -> Vec<f32> {
    let group = EXACT_GROUP as usize;
    let groups = row.chunks(group).zip(mean.chunks(group));
    groups
        .flat_map(|(row, mean)| {
            let parts = || row.iter().zip(mean).map(|(value, mean)| value - mean);
            let largest = parts().fold(0.0f32, |most, value| most.max(value.abs()));
            let unit = f16::from_f32(largest / 127.0).to_f32().max(1e-12);
            let restored = parts().zip(mean).map(|(value, mean)| {
                mean + unit * (value / unit).round_ties_even().clamp(-127.0, 127.0)
            });
            restored.collect::<Vec<f32>>()
        })
        .collect()
}
