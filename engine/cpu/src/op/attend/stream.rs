//! One query row against a segment of what it sees.

use half::slice::HalfFloatSliceExt;
use pulp::{Simd, WithSimd};

use super::Setting;
use crate::exp::exp;
use crate::line::Floats;
use crate::tile::dot;

/// Tokens of a segment.
pub(super) const SEGMENT: usize = 128;
/// Products that are summed in f32 before they are added to an f64.
const BLOCK: usize = 64;

/// What one row sees of a segment of tokens.
pub(super) struct Segment<'a> {
    pub(super) setting: Setting<'a>,
    pub(super) row: usize,
    pub(super) slots: &'a [u32],
}

/// Sums over a segment, for each query head.
pub(super) struct Partial {
    /// The largest score.
    max: Vec<f32>,
    /// Sum of `exp(score - max)`.
    sum: Vec<f64>,
    /// Sum of `exp(score - max) * V`, `[heads][dim]`.
    values: Vec<f64>,
}

impl WithSimd for Segment<'_> {
    type Output = Partial;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Partial {
        let Setting {
            kv,
            group,
            dim,
            scale,
            ..
        } = self.setting;
        let heads = self.setting.heads();
        let width = self.setting.kv_heads * dim;
        let tokens = self.slots.len();
        let mut vectors = Floats::zeros(width);

        let mut weights = vec![0.0f32; heads * tokens];
        for (token, &slot) in self.slots.iter().enumerate() {
            kv.f16s(slot as usize)[..width].convert_to_f32_slice(&mut vectors);
            for head in 0..heads {
                let key = &vectors[head / group * dim..][..dim];
                let product = dot(simd, self.setting.query(self.row, head), key);
                weights[head * tokens + token] = (f64::from(scale) * product) as f32;
            }
        }

        let mut max = Vec::with_capacity(heads);
        let mut sum = Vec::with_capacity(heads);
        for weights in weights.chunks_exact_mut(tokens) {
            let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for weight in weights.iter_mut() {
                *weight = exp(*weight - largest);
            }
            max.push(largest);
            sum.push(weights.iter().copied().map(f64::from).sum());
        }

        let mut values = vec![0.0f64; heads * dim];
        let mut block = Floats::zeros(heads * dim);
        for (index, slots) in self.slots.chunks(BLOCK).enumerate() {
            for (token, &slot) in slots.iter().enumerate() {
                kv.f16s(slot as usize)[width..].convert_to_f32_slice(&mut vectors);
                for (head, sums) in block.chunks_exact_mut(dim).enumerate() {
                    let weight = weights[head * tokens + index * BLOCK + token];
                    for (sum, value) in sums.iter_mut().zip(&vectors[head / group * dim..]) {
                        *sum += weight * value;
                    }
                }
            }
            for (total, sum) in values.iter_mut().zip(&mut *block) {
                *total += f64::from(std::mem::take(sum));
            }
        }
        Partial { max, sum, values }
    }
}

/// The means over all segments of a row.
pub(super) fn merge<'a>(
    setting: Setting<'_>,
    partials: impl Iterator<Item = &'a Partial> + Clone,
    out: &mut [f32],
) {
    let mut totals = vec![0.0f64; setting.dim];
    for (head, out) in out.chunks_exact_mut(setting.dim).enumerate() {
        let largest = partials.clone().map(|partial| partial.max[head]);
        let largest = largest.fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        totals.fill(0.0);
        for partial in partials.clone() {
            let share = f64::from(partial.max[head] - largest).exp();
            sum += partial.sum[head] * share;
            let values = &partial.values[head * setting.dim..];
            for (total, value) in totals.iter_mut().zip(values) {
                *total += value * share;
            }
        }
        for (out, total) in out.iter_mut().zip(&totals) {
            *out = (total / sum) as f32;
        }
    }
}
