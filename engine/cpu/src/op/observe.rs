use half::slice::HalfFloatSliceExt;
use longwave_contract::BackendError;
use longwave_contract::op::Observe;
use rayon::prelude::*;

use super::view::{self, Pick, Tables};
use crate::memory::Memory;
use crate::row::Matrix;

/// Candidates that are scored at a time.
const BLOCK: usize = 256;

/// See [`Observe`].
pub(super) fn run(op: &Observe, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.scores, |memory, mut out| {
        let count = memory.count(Observe::NAME, op.count, op.picks.rows)?;
        let (q, kv) = (memory.matrix(op.q)?, memory.matrix(op.kv)?);
        let tables = Tables {
            rows: memory.matrix(op.rows)?,
            views: memory.matrix(op.views)?,
            entries: memory.matrix(op.entries)?,
            picks: memory.matrix(op.picks)?,
            slots: op.kv.rows,
            capacity: op.scores.cols as usize,
        };
        let picks = (0..count)
            .map(|index| view::pick(Observe::NAME, &tables, index))
            .collect::<Result<Vec<_>, _>>()?;
        let scores: Vec<Vec<f32>> = picks
            .iter()
            .map(|pick| scores(op, q.f32s(pick.pick.row as usize), kv, pick))
            .collect();
        out.for_each_row(count, |row, out| {
            let (scored, rest) = out.split_at_mut(scores[row].len());
            scored.copy_from_slice(&scores[row]);
            rest.fill(0.0);
        });
        Ok(())
    })
}

/// The largest share that any head gives each candidate.
fn scores(op: &Observe, q: &[f32], kv: Matrix<'_>, pick: &Pick) -> Vec<f32> {
    let dim = op.shape.head_dim as usize;
    let heads = op.heads() as usize;
    let group = heads / op.shape.kv_heads as usize;
    let slots = pick.candidates();
    // Logits of all heads, candidate by candidate.
    let mut logits = vec![0.0f64; slots.len() * heads];
    logits
        .par_chunks_mut(BLOCK * heads)
        .zip(slots.par_chunks(BLOCK))
        .for_each(|(logits, slots)| {
            let mut keys = vec![0.0f32; op.shape.width() as usize];
            for (logits, &slot) in logits.chunks_mut(heads).zip(slots) {
                kv.f16s(slot as usize)[..keys.len()].convert_to_f32_slice(&mut keys);
                for (head, logit) in logits.iter_mut().enumerate() {
                    let key = &keys[head / group * dim..][..dim];
                    *logit = f64::from(op.scale) * dot(&q[head * dim..][..dim], key);
                }
            }
        });
    let mut largest = vec![f64::MIN; heads];
    for logits in logits.chunks(heads) {
        for (largest, logit) in largest.iter_mut().zip(logits) {
            *largest = largest.max(*logit);
        }
    }
    let mut sums = vec![0.0f64; heads];
    for logits in logits.chunks_mut(heads) {
        for ((logit, largest), sum) in logits.iter_mut().zip(&largest).zip(&mut sums) {
            *logit = (*logit - largest).exp();
            *sum += *logit;
        }
    }
    let shares = logits.chunks(heads).map(|weights| {
        let shares = weights.iter().zip(&sums).map(|(weight, sum)| weight / sum);
        shares.fold(0.0f64, f64::max) as f32
    });
    shares.collect()
}

/// A sum of products: in f32 over lanes of a block, in f64 over blocks.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut total = 0.0f64;
    for (a, b) in a.chunks(64).zip(b.chunks(64)) {
        let mut lanes = [0.0f32; 8];
        for (a, b) in a.chunks(8).zip(b.chunks(8)) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += a * b;
            }
        }
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    total
}
