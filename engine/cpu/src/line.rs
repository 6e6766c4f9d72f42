//! Storage in cache lines, so that no vector straddles two of them.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// A cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u32; 16]);

impl Line {
    /// Bytes of a line.
    pub(crate) const BYTES: u64 = 64;
    const FLOATS: usize = 16;
}

/// An array of floats of fixed size that starts at a line.
#[repr(C, align(64))]
pub(crate) struct Aligned<const N: usize>(pub(crate) [f32; N]);

impl<const N: usize> Aligned<N> {
    #[inline(always)]
    pub(crate) fn zeros() -> Self {
        Aligned([0.0; N])
    }
}

/// Floats that start at a line.
#[derive(Default)]
pub(crate) struct Floats {
    lines: Vec<Line>,
    length: usize,
}

impl Floats {
    pub(crate) fn zeros(length: usize) -> Self {
        let mut floats = Floats::default();
        floats.resize(length);
        floats
    }

    /// Changes the length. What was there stays, in parts or as a whole; what is new may hold anything finite that was there before.
    pub(crate) fn resize(&mut self, length: usize) {
        let lines = length.div_ceil(Line::FLOATS);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::zeroed());
        }
        self.length = length;
    }
}

impl Deref for Floats {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.length]
    }
}

impl DerefMut for Floats {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.length]
    }
}
