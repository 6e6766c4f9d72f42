//! Rows of tensors, typed; and quantised rows as f32.

use half::f16;
use half::slice::HalfFloatSliceExt;
use longwave_contract::{DType, Tensor};
use pulp::Simd;
use rayon::prelude::*;

use crate::line::Floats;

/// The most elements that [`Matrix::dequantise`] gives at once.
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

    /// Elements of one row as f32, from `start` on; at most [`CHUNK`] of them. Where the type is quantised, `start` and the number of elements are
    /// multiples of 32.
    ///
    /// Codes become floats in one flat loop, which every compiler vectorises, and then take their groups' scales.
    #[inline(always)]
    pub(crate) fn dequantise<S: Simd>(&self, simd: S, row: usize, start: usize, out: &mut [f32]) {
        let (codes, scales) = self.row(row).split_at(self.scales);
        let scales: &[f16] = bytemuck::cast_slice(scales);
        match self.dtype {
            DType::F32 | DType::U32 => {
                out.copy_from_slice(&bytemuck::cast_slice(codes)[start..][..out.len()]);
            }
            DType::F16 => {
                let codes: &[f16] = bytemuck::cast_slice(codes);
                codes[start..][..out.len()].convert_to_f32_slice(out);
            }
            DType::Q4 => {
                let mut bytes = [0u64; CHUNK / 8];
                let bytes = &mut bytes[..out.len() / 8];
                for (bytes, &nibbles) in bytes.iter_mut().zip(&codes[start / 8..]) {
                    *bytes = spread_nibbles(nibbles);
                }
                let bytes: &[u8] = bytemuck::cast_slice(bytes);
                for (out, &code) in out.iter_mut().zip(bytes) {
                    *out = f32::from(code);
                }
                scale_and_shift(simd, &scales[start / 16..], out);
            }
            DType::Q8G32M => {
                let codes: &[u8] = bytemuck::cast_slice(codes);
                for (out, &code) in out.iter_mut().zip(&codes[start..]) {
                    *out = f32::from(code);
                }
                scale_and_shift(simd, &scales[start / 16..], out);
            }
            DType::Q8G32 | DType::Q8G16 => {
                let codes: &[i8] = bytemuck::cast_slice(codes);
                for (out, &code) in out.iter_mut().zip(&codes[start..]) {
                    *out = f32::from(code);
                }
                if self.dtype == DType::Q8G32 {
                    scale::<32, S>(simd, &scales[start / 32..], out);
                } else {
                    scale::<16, S>(simd, &scales[start / 16..], out);
                }
            }
        }
    }
}

/// Eight nibbles as eight bytes, the lowest first.
#[inline(always)]
fn spread_nibbles(nibbles: u32) -> u64 {
    let wide = u64::from(nibbles);
    let wide = (wide | wide << 16) & 0x0000_ffff_0000_ffff;
    let wide = (wide | wide << 8) & 0x00ff_00ff_00ff_00ff;
    (wide | wide << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// `scale * code + minimum` in groups of 32.
#[inline(always)]
fn scale_and_shift<S: Simd>(simd: S, pairs: &[f16], out: &mut [f32]) {
    let mut converted = [0.0f32; CHUNK / 16];
    let converted = &mut converted[..out.len() / 16];
    pairs[..converted.len()].convert_to_f32_slice(converted);
    let groups = out.as_chunks_mut::<32>().0.iter_mut();
    for (group, &[scale, minimum]) in groups.zip(converted.as_chunks::<2>().0) {
        let (scale, minimum) = (simd.splat_f32s(scale), simd.splat_f32s(minimum));
        for values in S::as_mut_simd_f32s(group).0 {
            *values = simd.mul_add_e_f32s(scale, *values, minimum);
        }
    }
}

/// `scale * code` in groups of `G`.
#[inline(always)]
fn scale<const G: usize, S: Simd>(simd: S, scales: &[f16], out: &mut [f32]) {
    let mut converted = [0.0f32; CHUNK / 16];
    let converted = &mut converted[..out.len() / G];
    scales[..converted.len()].convert_to_f32_slice(converted);
    for (group, &scale) in out.as_chunks_mut::<G>().0.iter_mut().zip(&*converted) {
        let scale = simd.splat_f32s(scale);
        for values in S::as_mut_simd_f32s(group).0 {
            *values = simd.mul_f32s(scale, *values);
        }
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
