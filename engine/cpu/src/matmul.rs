//! Activations times weight matrices.

use longwave_contract::Tensor;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::line::{Aligned, Floats};
use crate::plan::Kernel;
use crate::row::{CHUNK, Matrix};
use crate::tile::{self, HEIGHT, WIDTH};

/// The most rows that a plan multiplies with [`Kernel::Row`].
const ROW_LIMIT: u32 = 8;
/// Multiply-adds that are worth a task of their own.
const TASK: usize = 128 * 1024;
/// Columns that [`Gemm`] dequantises at once, so that a panel's rows stay in the first cache.
const PACK: usize = 128;

/// The kernel for a recording with this many rows.
pub(crate) fn select(rows: Tensor) -> Kernel {
    if rows.rows <= ROW_LIMIT {
        Kernel::Row
    } else {
        Kernel::Gemm
    }
}

/// Products of the same input rows with one or more weight matrices, in blocks of `[rows][WIDTH]`, a block for each [`WIDTH`] outputs.
pub(crate) struct Product {
    blocks: Vec<f32>,
    rows: usize,
    /// The first block of each weight matrix.
    starts: Vec<usize>,
}

impl Product {
    /// Row `row` times weight matrix `weight`.
    pub(crate) fn copy_row(&self, weight: usize, row: usize, out: &mut [f32]) {
        let size = self.rows * WIDTH;
        let blocks = self.blocks[self.starts[weight] * size..].chunks_exact(size.max(1));
        for (out, block) in out.chunks_mut(WIDTH).zip(blocks) {
            out.copy_from_slice(&block[row * WIDTH..][..out.len()]);
        }
    }
}

/// `weight * input[i]` for each weight matrix and each of `rows` rows; `input` holds them without padding.
pub(crate) fn multiply(
    kernel: Kernel,
    weights: &[Matrix<'_>],
    input: &[f32],
    rows: usize,
) -> Product {
    let depth = weights.first().map_or(0, Matrix::cols);
    let mut starts = Vec::with_capacity(weights.len());
    let mut panels = Vec::new();
    for weight in weights {
        starts.push(panels.len());
        panels.extend(
            (0..weight.rows())
                .step_by(WIDTH)
                .map(|first| (*weight, first)),
        );
    }
    let mut blocks = vec![0.0; panels.len() * rows * WIDTH];
    if rows > 0 {
        let mut stacks = Floats::default();
        if kernel == Kernel::Gemm {
            tile::pack_stacks(rows, depth, |row| &input[row * depth..], &mut stacks);
        }
        let stacks = &stacks;
        let panels_per_task = TASK.div_ceil(rows * depth.max(1) * WIDTH);
        blocks
            .par_chunks_exact_mut(rows * WIDTH)
            .zip(panels)
            .with_min_len(panels_per_task)
            .for_each_init(Floats::default, |panel, (block, (weight, first))| {
                let arch = Arch::new();
                match kernel {
                    Kernel::Gemm => arch.dispatch(Gemm {
                        weight,
                        first,
                        stacks,
                        panel,
                        block,
                    }),
                    _ => arch.dispatch(Row {
                        weight,
                        first,
                        input,
                        block,
                    }),
                }
            });
    }
    Product {
        blocks,
        rows,
        starts,
    }
}

/// Streams each weight row once: a chunk of it becomes f32 and meets every input row.
struct Row<'a> {
    weight: Matrix<'a>,
    first: usize,
    input: &'a [f32],
    block: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let depth = self.weight.cols();
        let mut chunk = Aligned::<CHUNK>::zeros();
        let outputs = WIDTH.min(self.weight.rows() - self.first);
        let limit = ROW_LIMIT as usize;
        for (input, block) in self
            .input
            .chunks(depth * limit)
            .zip(self.block.chunks_mut(WIDTH * limit))
        {
            for output in 0..outputs {
                let mut sums = [0.0f64; ROW_LIMIT as usize];
                for start in (0..depth).step_by(CHUNK) {
                    let chunk = &mut chunk.0[..CHUNK.min(depth - start)];
                    self.weight
                        .dequantise(simd, self.first + output, start, chunk);
                    for (sum, row) in sums.iter_mut().zip(input.chunks_exact(depth)) {
                        let row = &row[start..][..chunk.len()];
                        *sum += tile::dot(simd, chunk, row);
                    }
                }
                for (sum, row) in sums.iter().zip(block.chunks_exact_mut(WIDTH)) {
                    row[output] = *sum as f32;
                }
            }
        }
    }
}

/// Packs a panel of weight rows as f32 and multiplies every stack of input rows with it.
struct Gemm<'a> {
    weight: Matrix<'a>,
    first: usize,
    stacks: &'a [f32],
    panel: &'a mut Floats,
    block: &'a mut [f32],
}

impl WithSimd for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let depth = self.weight.cols();
        let outputs = WIDTH.min(self.weight.rows() - self.first);
        self.panel.resize(depth * WIDTH);
        let mut rows = Aligned::<{ PACK * WIDTH }>::zeros();
        for start in (0..depth).step_by(PACK) {
            let columns = PACK.min(depth - start);
            for (output, row) in rows.0.chunks_exact_mut(PACK).take(outputs).enumerate() {
                self.weight
                    .dequantise(simd, self.first + output, start, &mut row[..columns]);
            }
            tile::pack_panel::<S>(self.panel, depth, start, columns, &rows.0, PACK);
        }
        let stacks = self.stacks.chunks_exact(depth * HEIGHT);
        for (stack, block) in stacks.zip(self.block.chunks_mut(HEIGHT * WIDTH)) {
            let mut product = [[0.0; WIDTH]; HEIGHT];
            tile::multiply(simd, stack, self.panel, depth, &mut product);
            for (out, sums) in block.as_chunks_mut::<WIDTH>().0.iter_mut().zip(&product) {
                for (out, &sum) in out.iter_mut().zip(sums) {
                    *out = sum as f32;
                }
            }
        }
    }
}
