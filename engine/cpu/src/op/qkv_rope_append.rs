use longwave_contract::BackendError;
use longwave_contract::kv::KeySpace;
use longwave_contract::op::{QkvRopeAppend, ROPE_LOW};
use rayon::prelude::*;

use super::descriptor;
use crate::error::misfit;
use crate::matmul::{self, Product};
use crate::memory::Memory;
use crate::norm::{normalise_in_place, normalised_rows};
use crate::plan::Kernel;
use crate::rotation::Rotation;
use crate::row::{Matrix, MatrixMut, store_halves};

/// See [`QkvRopeAppend`].
pub(super) fn run(
    op: &QkvRopeAppend,
    kernel: Kernel,
    memory: &mut Memory,
) -> Result<(), BackendError> {
    memory.lend(op.kv, |memory, mut kv| match op.staged {
        Some(staged) => memory.lend(staged, |memory, mut staged| {
            append(op, kernel, memory, &mut kv, Some(&mut staged))
        }),
        None => append(op, kernel, memory, &mut kv, None),
    })
}

fn append(
    op: &QkvRopeAppend,
    kernel: Kernel,
    memory: &mut Memory,
    kv: &mut MatrixMut<'_>,
    mut staged: Option<&mut MatrixMut<'_>>,
) -> Result<(), BackendError> {
    memory.lend(op.q, |memory, mut q| {
        let count = memory.count(QkvRopeAppend::NAME, op.count, op.x.rows)?;
        let rows = memory.matrix(op.rows)?;
        check_rows(op, &rows, count, kv.rows())?;
        let (x, norm) = (memory.matrix(op.x)?, memory.matrix(op.norm)?.f32s(0));
        let input = normalised_rows(count, |row| x.f32s(row), norm, op.epsilon);
        let weights = [
            memory.matrix(op.w_q)?,
            memory.matrix(op.w_k)?,
            memory.matrix(op.w_v)?,
        ];
        let product = matmul::multiply(kernel, &weights, &input, count);
        let project = Projection::new(op, memory, &product)?;
        let rope = memory.matrix(op.rope)?;

        q.for_each_row(count, |row, q| {
            project.query.head_vectors(row, q);
            project.query.normalise(q, op.epsilon);
            Rotation::new(&rope, descriptor(&rows, row).position).turn(q);
        });
        let width = op.shape.width() as usize;
        let mut cached = vec![0.0f32; count * 2 * width];
        cached
            .par_chunks_exact_mut(2 * width)
            .with_min_len(4)
            .enumerate()
            .for_each(|(row, cached)| {
                let (k, v) = cached.split_at_mut(width);
                project.key.head_vectors(row, k);
                project.value.head_vectors(row, v);
            });
        if let Some(staged) = &mut staged {
            for (row, cached) in cached.chunks_exact(2 * width).enumerate() {
                let slot = descriptor(&rows, row).staged as usize;
                store_halves(cached, staged.f16s_mut(slot));
            }
        }
        if op.space == KeySpace::Roped {
            let keys = cached.par_chunks_exact_mut(2 * width).with_min_len(4);
            keys.enumerate().for_each(|(row, cached)| {
                let k = &mut cached[..width];
                project.key.normalise(k, op.epsilon);
                Rotation::new(&rope, descriptor(&rows, row).position).turn(k);
            });
        }
        for (row, cached) in cached.chunks_exact(2 * width).enumerate() {
            let slot = descriptor(&rows, row).slot as usize;
            store_halves(cached, kv.f16s_mut(slot));
        }
        Ok(())
    })
}

/// Every row that counts has a slot in the cache and a position in the rotary table.
fn check_rows(
    op: &QkvRopeAppend,
    rows: &Matrix<'_>,
    count: usize,
    slots: usize,
) -> Result<(), BackendError> {
    let positions = u64::from(op.rope.rows - ROPE_LOW) * u64::from(ROPE_LOW);
    for index in 0..count {
        let row = descriptor(rows, index);
        if row.slot as usize >= slots {
            let expected = format_args!("a slot below {slots} in row {index}");
            return Err(misfit(QkvRopeAppend::NAME, "rows", expected, row.slot));
        }
        if op.staged.is_some_and(|staged| row.staged >= staged.rows) {
            let expected = format_args!("a staged row that exists in row {index}");
            return Err(misfit(QkvRopeAppend::NAME, "rows", expected, row.staged));
        }
        if u64::from(row.position) >= positions {
            let expected = format_args!("a position below {positions} in row {index}");
            return Err(misfit(QkvRopeAppend::NAME, "rows", expected, row.position));
        }
    }
    Ok(())
}

/// The three products, each with its bias and head norm.
struct Projection<'a> {
    query: Heads<'a>,
    key: Heads<'a>,
    value: Heads<'a>,
}

struct Heads<'a> {
    product: &'a Product,
    weight: usize,
    bias: Option<&'a [f32]>,
    norm: Option<&'a [f32]>,
}

impl<'a> Projection<'a> {
    fn new(
        op: &QkvRopeAppend,
        memory: &'a Memory,
        product: &'a Product,
    ) -> Result<Self, BackendError> {
        let heads = |weight, bias: Option<_>, norm: Option<_>| {
            Ok::<_, BackendError>(Heads {
                product,
                weight,
                bias: bias
                    .map(|b| memory.matrix(b))
                    .transpose()?
                    .map(|b| b.f32s(0)),
                norm: norm
                    .map(|n| memory.matrix(n))
                    .transpose()?
                    .map(|n| n.f32s(0)),
            })
        };
        Ok(Projection {
            query: heads(0, op.b_q, op.q_norm)?,
            key: heads(1, op.b_k, op.k_norm)?,
            value: heads(2, op.b_v, None)?,
        })
    }
}

impl Heads<'_> {
    /// The product's row with its bias.
    fn head_vectors(&self, row: usize, out: &mut [f32]) {
        self.product.copy_row(self.weight, row, out);
        if let Some(bias) = self.bias {
            for (out, bias) in out.iter_mut().zip(bias) {
                *out += bias;
            }
        }
    }

    /// The norm of each head, where there is one.
    fn normalise(&self, vectors: &mut [f32], epsilon: f32) {
        if let Some(norm) = self.norm {
            for head in vectors.chunks_exact_mut(norm.len()) {
                normalise_in_place(head, norm, epsilon);
            }
        }
    }
}
