//! Rows of tensors, typed; and quantised rows as f32.

use std::ops::Range;

use bytemuck::Zeroable;
use half::f16;
use half::slice::HalfFloatSliceExt;
use longwave_contract::{DType, Tensor};
use pulp::Simd;
use rayon::prelude::*;

use crate::layout::{self, GROUP, Group, Layout};
use crate::line::Floats;

/// The most elements of a row that are decoded at once.
pub(crate) const CHUNK: usize = 1024;

/// A tensor to read. Rows are indexed by the op, which has checked its shapes.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    words: &'a [u32],
    dtype: DType,
    rows: usize,
    cols: usize,
    pitch: usize,
    scales: usize,
}

impl<'a> Matrix<'a> {
    /// `words` are exactly the tensor's, padding included.
    pub(crate) fn new(words: &'a [u32], tensor: Tensor) -> Self {
        let format = tensor.dtype.row_format(tensor.cols);
        Matrix {
            words,
            dtype: tensor.dtype,
            rows: tensor.rows as usize,
            cols: tensor.cols as usize,
            pitch: format.row_bytes as usize / 4,
            scales: format.scale_offset as usize / 4,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    fn row(&self, index: usize) -> &'a [u32] {
        &self.words[index * self.pitch..][..self.pitch]
    }

    pub(crate) fn u32s(&self, row: usize) -> &'a [u32] {
        &self.row(row)[..self.cols]
    }

    pub(crate) fn f32s(&self, row: usize) -> &'a [f32] {
        bytemuck::cast_slice(self.u32s(row))
    }

    pub(crate) fn f16s(&self, row: usize) -> &'a [f16] {
        &bytemuck::cast_slice(self.row(row))[..self.cols]
    }

    /// The first `count` rows of an f32 matrix, without padding.
    pub(crate) fn gather(&self, count: usize) -> Floats {
        let mut all = Floats::zeros(count * self.cols);
        for (row, out) in all.chunks_exact_mut(self.cols).enumerate() {
            out.copy_from_slice(self.f32s(row));
        }
        all
    }

    /// Lets `work` meet the type of the elements.
    #[inline(always)]
    pub(crate) fn with_layout<W: WithLayout>(&self, work: W) {
        match self.dtype {
            DType::F32 | DType::U32 => work.with_layout::<layout::F32>(),
            DType::F16 => work.with_layout::<layout::F16>(),
            DType::Q4 => work.with_layout::<layout::Q4>(),
            DType::Q8G32 => work.with_layout::<layout::Q8G32>(),
            DType::Q8G16 => work.with_layout::<layout::Q8G16>(),
            DType::Q8G32M => work.with_layout::<layout::Q8G32M>(),
        }
    }

    /// Elements of one row as f32, from `start` on, a multiple of [`GROUP`]; at most [`CHUNK`] of them.
    #[inline(always)]
    pub(crate) fn dequantise<S: Simd>(&self, simd: S, row: usize, start: usize, out: &mut [f32]) {
        self.with_layout(Dequantise {
            matrix: self,
            simd,
            row,
            start,
            out,
        });
    }

    /// Calls `work` with each group of a row's `columns`, counted from 0, in registers. They start at a multiple of [`GROUP`] and are at most
    /// [`CHUNK`]; what they lack of a last group is zero.
    #[inline(always)]
    pub(crate) fn for_each_group<L: Layout, S: Simd>(
        &self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        mut work: impl FnMut(usize, &Group),
    ) {
        let (codes, halves) = self.row(row).split_at(self.scales);
        // Whole eights of scales, from that of the first group on.
        let first = columns.start / GROUP * L::SCALES;
        let end = columns.end / GROUP * L::SCALES;
        let eights = first / 8 * 8..end.next_multiple_of(8);
        let mut scales = [0.0; CHUNK / GROUP * 2 + 8];
        if L::SCALES > 0 {
            let halves: &[f16] = bytemuck::cast_slice(halves);
            layout::widen_eights(&halves[eights], &mut scales);
        }
        let scales = scales[first % 8..].chunks_exact(L::SCALES.max(1));
        let words = size_of::<L::Codes>() / 4;
        let (whole, rest) = (columns.len() / GROUP, columns.len() % GROUP);
        let codes = &codes[columns.start / GROUP * words..];
        let (groups, tail) = codes.split_at(whole * words);
        let groups: &[L::Codes] = bytemuck::cast_slice(groups);
        for (index, (codes, scales)) in groups.iter().zip(scales).enumerate() {
            work(index, &L::decode(simd, codes, scales));
        }
        if rest > 0 {
            let mut codes = L::Codes::zeroed();
            let bytes = rest * size_of::<L::Codes>() / GROUP;
            let tail = &bytemuck::cast_slice(tail)[..bytes];
            bytemuck::bytes_of_mut(&mut codes)[..bytes].copy_from_slice(tail);
            work(whole, &L::decode(simd, &codes, &[0.0; 2][..L::SCALES]));
        }
    }
}

/// What is compiled for each type of element.
pub(crate) trait WithLayout {
    fn with_layout<L: Layout>(self);
}

/// See [`Matrix::dequantise`].
struct Dequantise<'a, S> {
    matrix: &'a Matrix<'a>,
    simd: S,
    row: usize,
    start: usize,
    out: &'a mut [f32],
}

impl<S: Simd> WithLayout for Dequantise<'_, S> {
    #[inline(always)]
    fn with_layout<L: Layout>(self) {
        let columns = self.start..self.start + self.out.len();
        self.matrix.for_each_group::<L, S>(
            self.simd,
            self.row,
            columns,
            #[inline(always)]
            |index, group| {
                let out = &mut self.out[index * GROUP..];
                let length = GROUP.min(out.len());
                out[..length].copy_from_slice(&group[..length]);
            },
        );
    }
}

/// Numbers as f16, ties to even; beyond its range they become the largest finite ones.
pub(crate) fn store_halves(values: &[f32], out: &mut [f16]) {
    let largest = f16::MAX.to_f32();
    let saturated: Vec<f32> = values
        .iter()
        .map(|value| value.clamp(-largest, largest))
        .collect();
    out.convert_from_f32_slice(&saturated);
}

/// A tensor to write.
pub(crate) struct MatrixMut<'a> {
    words: &'a mut [u32],
    rows: usize,
    cols: usize,
    pitch: usize,
}

impl<'a> MatrixMut<'a> {
    /// `words` are exactly the tensor's, padding included.
    pub(crate) fn new(words: &'a mut [u32], tensor: Tensor) -> Self {
        MatrixMut {
            words,
            rows: tensor.rows as usize,
            cols: tensor.cols as usize,
            pitch: tensor.row_bytes() as usize / 4,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn u32s_mut(&mut self, row: usize) -> &mut [u32] {
        &mut self.words[row * self.pitch..][..self.cols]
    }

    pub(crate) fn f16s_mut(&mut self, row: usize) -> &mut [f16] {
        let words = &mut self.words[row * self.pitch..][..self.pitch];
        &mut bytemuck::cast_slice_mut(words)[..self.cols]
    }

    /// The first `count` rows, of f32, on all threads.
    pub(crate) fn rows_mut(
        &mut self,
        count: usize,
    ) -> impl IndexedParallelIterator<Item = &mut [f32]> {
        let cols = self.cols;
        self.words[..count * self.pitch]
            .par_chunks_exact_mut(self.pitch.max(1))
            .with_min_len(4)
            .map(move |words| bytemuck::cast_slice_mut(&mut words[..cols]))
    }

    /// Calls `work` with each of the first `count` rows, of f32, on all threads.
    pub(crate) fn for_each_row(
        &mut self,
        count: usize,
        work: impl Fn(usize, &mut [f32]) + Send + Sync,
    ) {
        self.for_each_row_from(0, count, work);
    }

    /// The same for `count` rows from `first` on; `work` counts from 0.
    pub(crate) fn for_each_row_from(
        &mut self,
        first: usize,
        count: usize,
        work: impl Fn(usize, &mut [f32]) + Send + Sync,
    ) {
        let cols = self.cols;
        self.words[first * self.pitch..][..count * self.pitch]
            .par_chunks_exact_mut(self.pitch.max(1))
            .with_min_len(4)
            .enumerate()
            .for_each(|(row, words)| work(row, bytemuck::cast_slice_mut(&mut words[..cols])));
    }

    /// Calls `work` with each of `count` rows of f16 from `first` on, on all threads, until one fails.
    pub(crate) fn for_each_row_of_f16<E: Send>(
        &mut self,
        first: usize,
        count: usize,
        work: impl Fn(usize, &mut [f16]) -> Result<(), E> + Send + Sync,
    ) -> Result<(), E> {
        let cols = self.cols;
        self.words[first * self.pitch..][..count * self.pitch]
            .par_chunks_exact_mut(self.pitch.max(1))
            .with_min_len(4)
            .enumerate()
            .try_for_each(|(row, words)| work(row, &mut bytemuck::cast_slice_mut(words)[..cols]))
    }
}
