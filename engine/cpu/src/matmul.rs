//! Activations times weight matrices.

use longwave_contract::Tensor;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::layout::{GROUP, Group, Layout};
use crate::line::{Aligned, Floats};
use crate::plan::Kernel;
use crate::row::{CHUNK, Matrix, WithLayout};
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
        let padded = match kernel {
            Kernel::Gemm => Floats::default(),
            _ => padded(input, depth),
        };
        let input = &padded;
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

/// Rows of `depth` elements, filled up with zeros to whole groups.
fn padded(rows: &[f32], depth: usize) -> Floats {
    let pitch = depth.next_multiple_of(GROUP);
    let mut all = Floats::zeros(rows.len() / depth.max(1) * pitch);
    for (row, out) in rows
        .chunks_exact(depth.max(1))
        .zip(all.chunks_exact_mut(pitch))
    {
        out[..depth].copy_from_slice(row);
    }
    all
}

/// Streams each weight row once: a group of it becomes f32 in registers and meets every input row there.
struct Row<'a> {
    weight: Matrix<'a>,
    first: usize,
    /// Rows of whole groups, zero beyond the weight's columns.
    input: &'a [f32],
    block: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let weight = self.weight;
        weight.with_layout(Streamed { simd, row: self });
    }
}

/// A [`Row`] with its instructions.
struct Streamed<'a, S> {
    simd: S,
    row: Row<'a>,
}

impl<S: Simd> WithLayout for Streamed<'_, S> {
    #[inline(always)]
    fn with_layout<L: Layout>(self) {
        let Row { weight, first, .. } = self.row;
        let (mut input, mut block) = (self.row.input, self.row.block);
        let pitch = weight.cols().next_multiple_of(GROUP);
        // As many input rows at a time as leave their sums in registers.
        while !input.is_empty() {
            let taken = match input.len() / pitch {
                1 => products::<1, L, S>(self.simd, weight, first, input, block),
                2 | 3 => products::<2, L, S>(self.simd, weight, first, input, block),
                _ => products::<4, L, S>(self.simd, weight, first, input, block),
            };
            input = &input[taken * pitch..];
            block = &mut block[taken * WIDTH..];
        }
    }
}

/// A panel of weight rows times the first `R` input rows; returns `R`.
#[inline(always)]
fn products<const R: usize, L: Layout, S: Simd>(
    simd: S,
    weight: Matrix<'_>,
    first: usize,
    input: &[f32],
    block: &mut [f32],
) -> usize {
    let depth = weight.cols();
    let groups = depth.div_ceil(GROUP);
    let mut rows: [&[Group]; R] = [&[]; R];
    for (row, input) in rows
        .iter_mut()
        .zip(input.as_chunks::<GROUP>().0.chunks_exact(groups))
    {
        *row = input;
    }
    for output in 0..WIDTH.min(weight.rows() - first) {
        let mut totals = [0.0f64; R];
        for start in (0..depth).step_by(CHUNK) {
            let columns = start..depth.min(start + CHUNK);
            let mut inputs = rows;
            for input in &mut inputs {
                *input = &input[start / GROUP..][..columns.len().div_ceil(GROUP)];
            }
            let mut sums = [[0.0; GROUP]; R];
            weight.for_each_group::<L, S>(
                simd,
                first + output,
                columns,
                #[inline(always)]
                |index, group| {
                    for (sums, input) in sums.iter_mut().zip(&inputs) {
                        tile::add_products(simd, group, &input[index], sums);
                    }
                },
            );
            for (total, sums) in totals.iter_mut().zip(&sums) {
                *total += f64::from(tile::sum(simd, sums));
            }
        }
        for (block, total) in block.chunks_exact_mut(WIDTH).zip(totals) {
            block[output] = total as f32;
        }
    }
    R
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
