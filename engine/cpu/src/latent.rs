//! Latent blocks on the host: exact rows, scales and codes, as `longwave_contract::kv` lays them out.

use half::f16;
use half::slice::HalfFloatSliceExt;
use longwave_contract::kv::{ComponentDesc, EXACT_GROUP, GAIN_LATENTS, LatentShape, ScaleRule};

/// The gain of a token whose leading latents are all zero: the smallest normal f16.
const LEAST_GAIN: f16 = f16::MIN_POSITIVE;

/// A number rounded to f16, at most the largest finite one.
fn half(value: f32) -> f16 {
    let largest = f16::MAX.to_f32();
    f16::from_f32(value.clamp(-largest, largest))
}

/// Writes `x` as an exact row.
pub(crate) fn store_exact(shape: &LatentShape, mean: &[f32], x: &[f32], words: &mut [u32]) {
    if shape.exact_f16 {
        let halves: &mut [f16] = bytemuck::cast_slice_mut(words);
        for (to, &value) in halves.iter_mut().zip(x) {
            *to = half(value);
        }
        return;
    }
    words.fill(0);
    let (codes, scales) = words.split_at_mut(shape.cols as usize / 4);
    let codes: &mut [u8] = bytemuck::cast_slice_mut(codes);
    let scales: &mut [f16] = bytemuck::cast_slice_mut(scales);
    let group = EXACT_GROUP as usize;
    let groups = x.chunks(group).zip(mean.chunks(group));
    for ((codes, scale), (x, mean)) in codes.chunks_mut(group).zip(scales).zip(groups) {
        let differences = || x.iter().zip(mean).map(|(x, mean)| x - mean);
        let largest = differences().fold(0.0f32, |most, value| most.max(value.abs()));
        *scale = half(largest / 127.0);
        let unit = scale.to_f32();
        for (code, value) in codes.iter_mut().zip(differences()) {
            let steps = if unit > 0.0 { value / unit } else { 0.0 };
            *code = (steps.round_ties_even().clamp(-127.0, 127.0) + 128.0) as u8;
        }
    }
}

/// Reads an exact row.
pub(crate) fn load_exact(shape: &LatentShape, mean: &[f32], words: &[u32], out: &mut [f32]) {
    if shape.exact_f16 {
        let halves: &[f16] = bytemuck::cast_slice(words);
        halves[..out.len()].convert_to_f32_slice(out);
        return;
    }
    let (codes, scales) = words.split_at(shape.cols as usize / 4);
    let codes: &[u8] = bytemuck::cast_slice(codes);
    let scales: &[f16] = bytemuck::cast_slice(scales);
    let group = EXACT_GROUP as usize;
    let groups = out.chunks_mut(group).zip(mean.chunks(group));
    for ((codes, scale), (out, mean)) in codes.chunks(group).zip(scales).zip(groups) {
        let unit = scale.to_f32();
        for ((out, mean), &code) in out.iter_mut().zip(mean).zip(codes) {
            *out = mean + unit * (f32::from(code) - 128.0);
        }
    }
}

/// The scales and minima of a token's latents, as they are stored.
pub(crate) fn scales(shape: &LatentShape, components: &[ComponentDesc], z: &[f32]) -> Vec<f16> {
    let mut scales = match shape.rule {
        ScaleRule::Plain => Vec::new(),
        ScaleRule::Gain => {
            let leading = &z[..z.len().min(GAIN_LATENTS as usize)];
            let squares: f64 = leading.iter().map(|&z| f64::from(z).powi(2)).sum();
            let gain = half((squares / leading.len() as f64).sqrt() as f32);
            vec![if gain > f16::ZERO { gain } else { LEAST_GAIN }]
        }
        ScaleRule::Symmetric => {
            let group = shape.group as usize;
            let groups = z.chunks(group).zip(components.chunks(group));
            let scale = |(z, components): (&[f32], &[ComponentDesc])| {
                let largest = z.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                half(largest / (components[0].zero * components[0].step))
            };
            groups.map(scale).collect()
        }
        ScaleRule::MinMax => {
            let groups = z.chunks(shape.group as usize);
            let pair = |z: &[f32]| {
                let least = z.iter().copied().fold(f32::MAX, f32::min);
                let most = z.iter().copied().fold(f32::MIN, f32::max);
                [half((most - least) / 15.0), half(least)]
            };
            groups.flat_map(pair).collect()
        }
    };
    scales.resize(shape.scales() as usize, f16::ZERO);
    scales
}

/// Scale and minimum of a group of latents.
fn scale_of(shape: &LatentShape, scales: &[f16], group: usize) -> (f32, f32) {
    match shape.rule {
        ScaleRule::Plain => (1.0, 0.0),
        ScaleRule::Gain => (scales[0].to_f32(), 0.0),
        ScaleRule::Symmetric => (scales[group].to_f32(), 0.0),
        ScaleRule::MinMax => (scales[2 * group].to_f32(), scales[2 * group + 1].to_f32()),
    }
}

/// Writes a token's codes; `words` are zero before.
pub(crate) fn store_codes(
    shape: &LatentShape,
    components: &[ComponentDesc],
    scales: &[f16],
    z: &[f32],
    words: &mut [u32],
) {
    let size = shape.group as usize;
    let groups = components.chunks(size).zip(z.chunks(size));
    for (group, (components, z)) in groups.enumerate() {
        let (scale, minimum) = scale_of(shape, scales, group);
        let padding = match shape.rule {
            ScaleRule::MinMax => 1e-6,
            _ => 0.0,
        };
        for (component, &value) in components.iter().zip(z) {
            if component.bits == 0 {
                continue;
            }
            let code = if shape.rule == ScaleRule::Plain {
                u32::from(half(value).to_bits())
            } else {
                let unit = (scale + padding) * component.step;
                let steps = if unit > 0.0 {
                    (value - minimum) / unit
                } else {
                    0.0
                };
                let largest = ((1u32 << component.bits) - 1) as f32;
                nearest((steps + component.zero).clamp(0.0, largest))
            };
            let (word, bit) = (component.offset as usize / 32, component.offset % 32);
            words[word] |= code << bit;
            if bit + component.bits > 32 {
                words[word + 1] |= code >> (32 - bit);
            }
        }
    }
}

/// The whole number nearest to one from 0 to 2^16, the even one of two. Beyond 2^23 floats have no fractions, so that a sum is rounded as IEEE 754 says.
fn nearest(value: f32) -> u32 {
    const WHOLE: f32 = 8_388_608.0;
    ((value + WHOLE) - WHOLE) as u32
}

/// Reads a token's latents.
pub(crate) fn load_codes(
    shape: &LatentShape,
    components: &[ComponentDesc],
    scales: &[f16],
    words: &[u32],
    z: &mut [f32],
) {
    let size = shape.group as usize;
    let groups = components.chunks(size).zip(z.chunks_mut(size));
    for (group, (components, z)) in groups.enumerate() {
        let (scale, minimum) = scale_of(shape, scales, group);
        for (component, z) in components.iter().zip(z) {
            if component.bits == 0 {
                *z = 0.0;
                continue;
            }
            let (word, bit) = (component.offset as usize / 32, component.offset % 32);
            let mut code = words[word] >> bit;
            if bit + component.bits > 32 {
                code |= words[word + 1] << (32 - bit);
            }
            code &= (1u32 << component.bits) - 1;
            *z = if shape.rule == ScaleRule::Plain {
                f16::from_bits(code as u16).to_f32()
            } else {
                scale * (component.step * (code as f32 - component.zero)) + minimum
            };
        }
    }
}

/// The references of a coded token.
pub(crate) fn ordinals<'a>(shape: &LatentShape, record: &'a [u32], lane: u32) -> &'a [u16] {
    let neighbours = shape
        .references
        .map_or(0, |references| references.neighbours);
    let at = shape.ordinals_at() + shape.coded_index(lane) * shape.ordinal_words();
    let words = &record[at as usize..][..shape.ordinal_words() as usize];
    &bytemuck::cast_slice(words)[..neighbours as usize]
}

/// Where the halves of a coded token's scales lie in a record seen as halves.
pub(crate) fn scale_halves(shape: &LatentShape, lane: u32) -> std::ops::Range<usize> {
    let first = 2 * shape.scales_at() + shape.coded_index(lane) * shape.scales();
    first as usize..(first + shape.scales()) as usize
}

/// Where a coded token's codes lie in a record.
pub(crate) fn code_words(shape: &LatentShape, lane: u32) -> std::ops::Range<usize> {
    let first = shape.codes_at() + shape.coded_index(lane) * shape.code_words();
    first as usize..(first + shape.code_words()) as usize
}

/// Where the exact row of a block's reference lies in its record.
pub(crate) fn reference_words(shape: &LatentShape, index: u32) -> std::ops::Range<usize> {
    let first = index * shape.exact_words();
    first as usize..(first + shape.exact_words()) as usize
}

/// Where the exact row of an escape lies in its record.
pub(crate) fn escape_words(shape: &LatentShape, index: u32) -> std::ops::Range<usize> {
    let first = shape.escapes_at() + shape.escapes + index * shape.exact_words();
    first as usize..(first + shape.exact_words()) as usize
}

/// The escape that holds a token, where one does.
pub(crate) fn escape_of(shape: &LatentShape, record: &[u32], lane: u32) -> Option<u32> {
    let lanes = &record[shape.escapes_at() as usize..][..shape.escapes as usize];
    lanes
        .iter()
        .position(|&found| found == lane)
        .map(|index| index as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(rank: u32, bits: u32, rule: ScaleRule, group: u32) -> LatentShape {
        LatentShape {
            cols: rank,
            rank,
            code_bits: rank * bits,
            group,
            rule,
            references: None,
            exact_f16: false,
            escapes: 0,
        }
    }

    fn components(rank: u32, bits: &dyn Fn(u32) -> u32, zero: f32) -> Vec<ComponentDesc> {
        let mut offset = 0;
        (0..rank)
            .map(|index| {
                let component = ComponentDesc {
                    offset,
                    bits: bits(index),
                    step: 1.0,
                    zero,
                };
                offset += component.bits;
                component
            })
            .collect()
    }

    #[test]
    fn four_bit_groups_are_packed_as_the_paper_packs_them() {
        // Range 15, so that the scale is 1 and codes are the numbers themselves, less the least; 1e-6 keeps ties from being ties, but below 1.
        let (shape, four) = (
            shape(64, 4, ScaleRule::MinMax, 32),
            components(64, &|_| 4, 0.0),
        );
        let z: Vec<f32> = (0..64)
            .map(|i| if i < 32 { (i % 16) as f32 - 3.0 } else { 0.25 })
            .collect();
        let scales = scales(&shape, &four, &z);
        let as_f32: Vec<f32> = scales.iter().map(|scale| scale.to_f32()).collect();
        // A group of equal numbers has a scale of 0 and codes of 0.
        assert_eq!(as_f32, [1.0, -3.0, 0.0, 0.25]);
        let mut words = vec![0u32; shape.code_words() as usize];
        store_codes(&shape, &four, &scales, &z, &mut words);
        // Eight codes a word, the first in the lowest nibble.
        assert_eq!(
            words,
            [
                0x7654_3210,
                0xfedc_ba98,
                0x7654_3210,
                0xfedc_ba98,
                0,
                0,
                0,
                0
            ]
        );
        let mut restored = vec![0.0; 64];
        load_codes(&shape, &four, &scales, &words, &mut restored);
        assert_eq!(restored, z);
    }

    #[test]
    fn scales_are_rounded_before_they_are_used() {
        let (shape, four) = (
            shape(32, 4, ScaleRule::MinMax, 32),
            components(32, &|_| 4, 0.0),
        );
        let z: Vec<f32> = (0..32).map(|i| 0.1 + 0.333_333 * i as f32).collect();
        let scales = scales(&shape, &four, &z);
        let (scale, least) = (scales[0].to_f32(), scales[1].to_f32());
        assert_eq!(least, f16::from_f32(0.1).to_f32());
        let mut words = vec![0u32; 4];
        store_codes(&shape, &four, &scales, &z, &mut words);
        for (index, &value) in z.iter().enumerate() {
            let code = words[index / 8] >> (4 * (index % 8)) & 15;
            let expected = ((value - least) / (scale + 1e-6))
                .round_ties_even()
                .clamp(0.0, 15.0);
            assert_eq!(code as f32, expected, "element {index}");
        }
    }

    #[test]
    fn codes_of_any_width_stand_side_by_side() {
        // 3, 0, 7, 5, 1, 8 bits and so on: codes cross words.
        let widths = [3, 0, 7, 5, 1, 8];
        let mut odd = components(48, &|index| widths[index as usize % 6], 0.0);
        for component in &mut odd {
            component.zero = ((1u32 << component.bits) - 1) as f32 / 2.0;
            component.step = 0.01 * (1 << (8 - component.bits)) as f32;
        }
        let shape = LatentShape {
            code_bits: odd.iter().map(|component| component.bits).sum(),
            ..shape(48, 0, ScaleRule::Gain, 48)
        };
        let z: Vec<f32> = (0..48)
            .map(|i| ((i * 37) % 19) as f32 / 10.0 - 0.9)
            .collect();
        let scales = scales(&shape, &odd, &z);
        let gain = (z.iter().map(|z| z * z).sum::<f32>() / 48.0).sqrt();
        assert!((scales[0].to_f32() - gain).abs() < 1e-3);
        let mut words = vec![0u32; shape.code_words() as usize];
        store_codes(&shape, &odd, &scales, &z, &mut words);
        let mut restored = vec![0.0; 48];
        load_codes(&shape, &odd, &scales, &words, &mut restored);
        for ((component, z), restored) in odd.iter().zip(&z).zip(&restored) {
            match component.bits {
                0 => assert_eq!(*restored, 0.0),
                _ => {
                    let unit = scales[0].to_f32() * component.step;
                    let reach = unit * component.zero;
                    let bound = (z.abs() - reach).max(0.0) + 0.501 * unit;
                    assert!(
                        (z - restored).abs() <= bound,
                        "{component:?}: {z} became {restored}"
                    );
                }
            }
        }
    }

    #[test]
    fn exact_rows_lose_half_a_step() {
        let shape = shape(64, 4, ScaleRule::Plain, 64);
        let mean: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let x: Vec<f32> = (0..64)
            .map(|i| i as f32 + ((i * 29) % 17) as f32 / 8.0 - 1.0)
            .collect();
        let mut words = vec![0u32; shape.exact_words() as usize];
        store_exact(&shape, &mean, &x, &mut words);
        let mut restored = vec![0.0; 64];
        load_exact(&shape, &mean, &words, &mut restored);
        for (x, restored) in x.iter().zip(&restored) {
            assert!(
                (x - restored).abs() <= 0.51 / 127.0,
                "{x} became {restored}"
            );
        }
    }
}
