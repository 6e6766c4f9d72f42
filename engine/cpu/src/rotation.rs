//! The rotary embedding.

use longwave_contract::op::ROPE_LOW;

use crate::row::Matrix;

/// Cosines and sines of one position.
pub(crate) struct Rotation(Vec<(f64, f64)>);

impl Rotation {
    /// Combines the table's rows by the addition theorem.
    pub(crate) fn new(rope: &Matrix<'_>, position: u32) -> Self {
        let low = rope.f32s((position % ROPE_LOW) as usize);
        let high = rope.f32s((ROPE_LOW + position / ROPE_LOW) as usize);
        let (low_cos, low_sin) = low.split_at(low.len() / 2);
        let (high_cos, high_sin) = high.split_at(high.len() / 2);
        let low = low_cos.iter().zip(low_sin);
        let high = high_cos.iter().zip(high_sin);
        let angles = low.zip(high).map(|((&lc, &ls), (&hc, &hs))| {
            let [lc, ls, hc, hs] = [lc, ls, hc, hs].map(f64::from);
            (lc * hc - ls * hs, ls * hc + lc * hs)
        });
        Rotation(angles.collect())
    }

    /// Turns the pairs `(j, j + dim / 2)` of every head.
    pub(crate) fn turn(&self, vectors: &mut [f32]) {
        let half = self.0.len();
        for head in vectors.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(&self.0) {
                let (x, y) = (f64::from(*a), f64::from(*b));
                *a = (x * cos - y * sin) as f32;
                *b = (y * cos + x * sin) as f32;
            }
        }
    }
}
