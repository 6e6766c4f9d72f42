//! A tile of rows that share a view, for one key head, against all that they see.

use half::slice::HalfFloatSliceExt;
use pulp::{Simd, WithSimd};

use super::Setting;
use crate::exp::exp;
use crate::line::Floats;
use crate::row::Matrix;
use crate::tile::{self, HEIGHT, WIDTH};

/// Tokens whose keys and values are converted at once.
const SEGMENT: usize = 256;

/// Consecutive rows of a view and one key head.
pub(super) struct Rows<'a> {
    pub(super) setting: Setting<'a>,
    pub(super) first: usize,
    /// How many tokens each of the rows sees.
    pub(super) visible: &'a [usize],
    pub(super) slots: &'a [u32],
    pub(super) kv_head: usize,
}

/// The running softmax of one query vector.
#[derive(Clone, Copy)]
struct Running {
    /// The largest score so far.
    max: f32,
    /// Sum of `exp(score - max)`.
    sum: f64,
}

impl WithSimd for Rows<'_> {
    /// The means, `[rows][group][dim]`.
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Setting {
            kv,
            kv_heads,
            group,
            dim,
            scale,
            ..
        } = self.setting;
        let queries = self.visible.len() * group;
        let tokens = self.visible.iter().copied().max().unwrap_or(0);
        let query = |index: usize| {
            let head = self.kv_head * group + index % group;
            self.setting.query(self.first + index / group, head)
        };
        let mut stacks = Floats::default();
        tile::pack_stacks(queries, dim, query, &mut stacks);

        let start = Running {
            max: f32::NEG_INFINITY,
            sum: 0.0,
        };
        let mut running = vec![start; queries];
        let mut values = vec![0.0f64; queries * dim];
        let mut scores = Floats::zeros(queries.next_multiple_of(HEIGHT) * SEGMENT);
        let (mut panels, mut weights) = (Floats::default(), Floats::default());
        for (index, slots) in self.slots[..tokens].chunks(SEGMENT).enumerate() {
            let keys = self.kv_head * dim;
            pack_keys::<S>(kv, slots, keys..keys + dim, &mut panels);
            for (stack, scores) in stacks
                .chunks_exact(HEIGHT * dim)
                .zip(scores.chunks_exact_mut(HEIGHT * SEGMENT))
            {
                for (panel, column) in panels.chunks_exact(WIDTH * dim).zip((0..).step_by(WIDTH)) {
                    let mut product = [[0.0; WIDTH]; HEIGHT];
                    tile::multiply(simd, stack, panel, dim, &mut product);
                    for (scores, sums) in scores.chunks_exact_mut(SEGMENT).zip(&product) {
                        for (score, sum) in scores[column..][..WIDTH].iter_mut().zip(sums) {
                            *score = (f64::from(scale) * sum) as f32;
                        }
                    }
                }
            }

            let state = running.iter_mut().zip(values.chunks_exact_mut(dim));
            let state = state.zip(scores.chunks_exact_mut(SEGMENT));
            for (query, ((running, values), scores)) in state.enumerate() {
                let seen = self.visible[query / group].saturating_sub(index * SEGMENT);
                let (scores, hidden) = scores[..slots.len()].split_at_mut(seen.min(slots.len()));
                hidden.fill(0.0);
                advance(running, values, scores);
            }

            let first = (kv_heads + self.kv_head) * dim;
            pack_values::<S>(kv, slots, first..first + dim, &mut panels);
            let row = |query: usize| &scores[query * SEGMENT..][..slots.len()];
            tile::pack_stacks(queries, slots.len(), row, &mut weights);
            for (stack, values) in weights
                .chunks_exact(HEIGHT * slots.len())
                .zip(values.chunks_mut(HEIGHT * dim))
            {
                for (panel, column) in panels
                    .chunks_exact(WIDTH * slots.len())
                    .zip((0..dim).step_by(WIDTH))
                {
                    let mut product = [[0.0; WIDTH]; HEIGHT];
                    tile::multiply(simd, stack, panel, slots.len(), &mut product);
                    for (values, sums) in values.chunks_exact_mut(dim).zip(&product) {
                        for (value, sum) in values[column..].iter_mut().zip(sums) {
                            *value += sum;
                        }
                    }
                }
            }
        }

        let mut out = vec![0.0f32; queries * dim];
        let rows = out.chunks_exact_mut(dim).zip(values.chunks_exact(dim));
        for ((out, values), running) in rows.zip(&running) {
            // A row that sees nothing keeps its zeros.
            if running.sum != 0.0 {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = (value / running.sum) as f32;
                }
            }
        }
        out
    }
}

/// Takes a segment's scores into the running softmax and turns them into weights.
#[inline(always)]
fn advance(running: &mut Running, values: &mut [f64], scores: &mut [f32]) {
    if scores.is_empty() {
        return;
    }
    let mut largest = [running.max; 16];
    let (sixteens, rest) = scores.as_chunks::<16>();
    for sixteen in sixteens {
        for (largest, &score) in largest.iter_mut().zip(sixteen) {
            *largest = if score > *largest { score } else { *largest };
        }
    }
    let max = largest.iter().chain(rest).copied();
    let max = max.fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    let mut sums = [0.0f64; 16];
    let (sixteens, rest) = scores.as_chunks::<16>();
    for sixteen in sixteens {
        for (sum, &weight) in sums.iter_mut().zip(sixteen) {
            *sum += f64::from(weight);
        }
    }
    for (sum, &weight) in sums.iter_mut().zip(rest) {
        *sum += f64::from(weight);
    }
    if max > running.max {
        let share = f64::from(running.max - max).exp();
        running.sum *= share;
        for value in values {
            *value *= share;
        }
    }
    running.max = max;
    running.sum += sums.iter().sum::<f64>();
}

/// Packs the keys of tokens as the rows of panels.
#[inline(always)]
fn pack_keys<S: Simd>(
    kv: Matrix<'_>,
    slots: &[u32],
    columns: std::ops::Range<usize>,
    panels: &mut Floats,
) {
    let dim = columns.len();
    panels.resize(slots.len().div_ceil(WIDTH) * WIDTH * dim);
    let mut rows = Floats::zeros(WIDTH * dim);
    let panels = panels.chunks_exact_mut(WIDTH * dim);
    for (panel, slots) in panels.zip(slots.chunks(WIDTH)) {
        // Columns beyond the last token keep what they have; nobody sees their scores.
        for (row, &slot) in rows.chunks_exact_mut(dim).zip(slots) {
            kv.f16s(slot as usize)[columns.clone()].convert_to_f32_slice(row);
        }
        tile::pack_panel::<S>(panel, dim, 0, dim, &rows, dim);
    }
}

/// Packs the values of tokens as the columns of panels.
#[inline(always)]
fn pack_values<S: Simd>(
    kv: Matrix<'_>,
    slots: &[u32],
    columns: std::ops::Range<usize>,
    panels: &mut Floats,
) {
    let (dim, depth) = (columns.len(), slots.len());
    let mut vector = Floats::zeros(dim.next_multiple_of(WIDTH));
    panels.resize(vector.len() * depth);
    for (token, &slot) in slots.iter().enumerate() {
        kv.f16s(slot as usize)[columns.clone()].convert_to_f32_slice(&mut vector[..dim]);
        let parts = vector.chunks_exact(WIDTH);
        for (panel, part) in panels.chunks_exact_mut(WIDTH * depth).zip(parts) {
            tile::pack_column::<S>(panel, depth, token, part);
        }
    }
}
