//! How a group of weights becomes f32, for each type of element.
//!
//! Everything here is a loop over an array of fixed length: it is inlined where a set of vector instructions has been chosen, and compiles to a
//! few of them, so that a group stays in registers.

use bytemuck::Pod;
use half::f16;
use pulp::Simd;

/// Elements that are decoded at once.
pub(crate) const GROUP: usize = 32;

/// A group as f32.
pub(crate) type Group = [f32; GROUP];

/// A type of element, as rows hold it.
pub(crate) trait Layout {
    /// The codes of a group.
    type Codes: Pod;
    /// Scales of a group, minima included.
    const SCALES: usize;

    /// The elements of a group.
    fn decode<S: Simd>(simd: S, codes: &Self::Codes, scales: &[f32]) -> Group;
}

/// See [`longwave_contract::DType::F32`].
pub(crate) struct F32;
/// See [`longwave_contract::DType::F16`].
pub(crate) struct F16;
/// See [`longwave_contract::DType::Q4`].
pub(crate) struct Q4;
/// See [`longwave_contract::DType::Q8G32`].
pub(crate) struct Q8G32;
/// See [`longwave_contract::DType::Q8G16`].
pub(crate) struct Q8G16;
/// See [`longwave_contract::DType::Q8G32M`].
pub(crate) struct Q8G32M;

impl Layout for F32 {
    type Codes = [f32; GROUP];
    const SCALES: usize = 0;

    #[inline(always)]
    fn decode<S: Simd>(_: S, codes: &Self::Codes, _: &[f32]) -> Group {
        *codes
    }
}

impl Layout for F16 {
    type Codes = [f16; GROUP];
    const SCALES: usize = 0;

    #[inline(always)]
    fn decode<S: Simd>(_: S, codes: &Self::Codes, _: &[f32]) -> Group {
        let mut values = [0.0; GROUP];
        for (value, &code) in values.iter_mut().zip(codes) {
            *value = widen(code);
        }
        values
    }
}

impl Layout for Q4 {
    type Codes = [u32; GROUP / 8];
    const SCALES: usize = 2;

    #[inline(always)]
    fn decode<S: Simd>(simd: S, codes: &Self::Codes, scales: &[f32]) -> Group {
        let mut values = [0.0; GROUP];
        for (at, value) in values.iter_mut().enumerate() {
            *value = (codes[at / 8] >> (4 * (at % 8)) & 15) as i32 as f32;
        }
        scale_and_shift(simd, scales, &mut values);
        values
    }
}

impl Layout for Q8G32M {
    type Codes = [u8; GROUP];
    const SCALES: usize = 2;

    #[inline(always)]
    fn decode<S: Simd>(simd: S, codes: &Self::Codes, scales: &[f32]) -> Group {
        let mut values = [0.0; GROUP];
        for (value, &code) in values.iter_mut().zip(codes) {
            *value = f32::from(code);
        }
        scale_and_shift(simd, scales, &mut values);
        values
    }
}

impl Layout for Q8G32 {
    type Codes = [i8; GROUP];
    const SCALES: usize = 1;

    #[inline(always)]
    fn decode<S: Simd>(simd: S, codes: &Self::Codes, scales: &[f32]) -> Group {
        signed(simd, codes, scales)
    }
}

impl Layout for Q8G16 {
    type Codes = [i8; GROUP];
    const SCALES: usize = 2;

    #[inline(always)]
    fn decode<S: Simd>(simd: S, codes: &Self::Codes, scales: &[f32]) -> Group {
        signed(simd, codes, scales)
    }
}

/// `scale * code`, the scales evenly spread over the group.
#[inline(always)]
fn signed<S: Simd>(simd: S, codes: &[i8; GROUP], scales: &[f32]) -> Group {
    let mut values = [0.0; GROUP];
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = f32::from(code);
    }
    let parts = values.chunks_exact_mut(GROUP / scales.len());
    for (part, &scale) in parts.zip(scales) {
        let scale = simd.splat_f32s(scale);
        for values in S::as_mut_simd_f32s(part).0 {
            *values = simd.mul_f32s(scale, *values);
        }
    }
    values
}

/// `scale * code + minimum`.
#[inline(always)]
fn scale_and_shift<S: Simd>(simd: S, scales: &[f32], values: &mut Group) {
    let (scale, minimum) = (simd.splat_f32s(scales[0]), simd.splat_f32s(scales[1]));
    for values in S::as_mut_simd_f32s(values).0 {
        *values = simd.mul_add_e_f32s(scale, *values, minimum);
    }
}

/// A finite f16 as f32, exactly and without a branch, so that a loop over it vectorises.
#[inline(always)]
fn widen(half: f16) -> f32 {
    /// The unit of subnormal halves, whose bits count it.
    const UNIT: f32 = 1.0 / 16_777_216.0;
    let bits = u32::from(half.to_bits());
    let (magnitude, sign) = (bits & 0x7fff, (bits & 0x8000) << 16);
    let normal = (magnitude << 13) + ((127 - 15) << 23);
    let subnormal = (magnitude as i32 as f32 * UNIT).to_bits();
    let magnitude = if magnitude < 1 << 10 {
        subnormal
    } else {
        normal
    };
    f32::from_bits(magnitude | sign)
}

/// [`widen`] for whole eights; all scales of a row end with one.
#[inline(always)]
pub(crate) fn widen_eights(halves: &[f16], out: &mut [f32]) {
    let out = out.as_chunks_mut::<8>().0;
    for (out, halves) in out.iter_mut().zip(halves.as_chunks::<8>().0) {
        for (out, &half) in out.iter_mut().zip(halves) {
            *out = widen(half);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::widen;

    #[test]
    fn every_finite_half_is_widened_exactly() {
        for half in (0..=u16::MAX).map(f16::from_bits).filter(|h| h.is_finite()) {
            assert_eq!(widen(half).to_bits(), half.to_f32().to_bits(), "{half:?}");
        }
    }
}
