//! Unpacking one block of a quantised type. The layouts are those of the parent module's table.

use half::f16;

use super::super::RowError;
use super::{BLOCK_MAX, GgmlType};

/// One block of codes, whatever its type. An element is `scale * code`, plus the group's minimum where codes are unsigned.
pub(in super::super) struct Block {
    /// The codes in element order; signed ones as their byte.
    pub codes: [u8; BLOCK_MAX],
    /// One scale for each group, exact.
    pub scales: [f32; 16],
    /// One minimum for each group, exact; zero for signed codes.
    pub minimums: [f32; 16],
}

/// Unpacks the blocks of a row whose length was checked, and hands each to `take` once its scales are known to be finite.
pub(in super::super) fn for_each_block(
    kind: GgmlType,
    bytes: &[u8],
    mut take: impl FnMut(&Block) -> Result<(), RowError>,
) -> Result<(), RowError> {
    let mut block = Block {
        codes: [0; BLOCK_MAX],
        scales: [0.0; 16],
        minimums: [0.0; 16],
    };
    let groups = (kind.block_elements() / kind.group().unwrap_or(1)).min(16) as usize;
    for (index, raw) in bytes.chunks_exact(kind.block_bytes() as usize).enumerate() {
        unpack(kind, raw, &mut block);
        for (part, numbers) in [("scale", &block.scales), ("minimum", &block.minimums)] {
            if let Some((group, &value)) = numbers
                .iter()
                .take(groups)
                .enumerate()
                .find(|(_, value)| !value.is_finite())
            {
                return Err(RowError::Scale {
                    part,
                    group: (index * groups + group) as u64,
                    value,
                });
            }
        }
        take(&block)?;
    }
    Ok(())
}

fn unpack(kind: GgmlType, raw: &[u8], block: &mut Block) {
    match kind {
        GgmlType::Q8_0 => {
            let (scale, codes) = raw.split_at(2);
            block.scales[0] = half_at(scale, 0);
            block.codes[..32].copy_from_slice(codes);
        }
        GgmlType::Q4_0 => {
            block.scales[0] = half_at(raw, 0);
            // Exact in f32, and in f16 up to |d| = 8188: multiplying by 8 moves the exponent only.
            block.minimums[0] = -8.0 * block.scales[0];
            nibbles(&raw[2..], &mut block.codes[..32]);
        }
        GgmlType::Q4_1 => {
            block.scales[0] = half_at(raw, 0);
            block.minimums[0] = half_at(raw, 2);
            nibbles(&raw[4..], &mut block.codes[..32]);
        }
        GgmlType::Q5_0 => {
            block.scales[0] = half_at(raw, 0);
            nibbles(&raw[6..], &mut block.codes[..32]);
            fifth_bits(&raw[2..6], &mut block.codes[..32]);
            for code in &mut block.codes[..32] {
                *code = code.wrapping_sub(16);
            }
        }
        GgmlType::Q5_1 => {
            block.scales[0] = half_at(raw, 0);
            block.minimums[0] = half_at(raw, 2);
            nibbles(&raw[8..], &mut block.codes[..32]);
            fifth_bits(&raw[4..8], &mut block.codes[..32]);
        }
        GgmlType::Q4K => {
            scales_and_minimums(raw, block);
            nibble_runs(&raw[16..], &mut block.codes);
        }
        GgmlType::Q5K => {
            scales_and_minimums(raw, block);
            nibble_runs(&raw[48..], &mut block.codes);
            for (group, codes) in block.codes.chunks_exact_mut(32).enumerate() {
                for (code, bits) in codes.iter_mut().zip(&raw[16..48]) {
                    *code |= ((bits >> group) & 1) << 4;
                }
            }
        }
        GgmlType::Q6K => six_bits(raw, block),
        GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => {}
    }
}

fn half_at(raw: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([raw[offset], raw[offset + 1]]).to_f32()
}

/// Low nibbles are the first half of `codes`, high nibbles the second.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(codes.len() / 2);
    for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

fn nibble_runs(bytes: &[u8], codes: &mut [u8; BLOCK_MAX]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        nibbles(bytes, codes);
    }
}

/// Sets bit 4 of code `e` from bit `e` of a 32-bit word.
fn fifth_bits(word: &[u8], codes: &mut [u8]) {
    for (byte, codes) in word.iter().zip(codes.chunks_exact_mut(8)) {
        for (bit, code) in codes.iter_mut().enumerate() {
            *code |= ((byte >> bit) & 1) << 4;
        }
    }
}

/// `d`, `dmin` and the 12 bytes that hold eight 6-bit scales and minimums.
///
/// The first four of each are the low six bits of bytes 0..4 and 4..8; of the last four, the low four bits are the nibbles of bytes
/// 8..12 (scale low, minimum high), and the upper two the upper bits of bytes 0..4 and 4..8.
fn scales_and_minimums(raw: &[u8], block: &mut Block) {
    let (d, dmin) = (half_at(raw, 0), half_at(raw, 2));
    let packed = &raw[4..16];
    for group in 0..4 {
        let (first, second, third) = (packed[group], packed[group + 4], packed[group + 8]);
        let pairs = [
            (group, first & 63, second & 63),
            (
                group + 4,
                (third & 15) | (first >> 6) << 4,
                (third >> 4) | (second >> 6) << 4,
            ),
        ];
        for (group, scale, minimum) in pairs {
            block.scales[group] = d * f32::from(scale);
            block.minimums[group] = -(dmin * f32::from(minimum));
        }
    }
}

fn six_bits(raw: &[u8], block: &mut Block) {
    let d = half_at(raw, 208);
    for (scale, &factor) in block.scales.iter_mut().zip(&raw[192..208]) {
        *scale = d * f32::from(factor.cast_signed());
    }
    for (half, codes) in block.codes.chunks_exact_mut(128).enumerate() {
        let low = &raw[half * 64..][..64];
        let pairs = &raw[128 + half * 32..][..32];
        for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
            let low = &low[(quarter % 2) * 32..][..32];
            for ((code, low), pairs) in codes.iter_mut().zip(low).zip(pairs) {
                let nibble = if quarter < 2 { low & 15 } else { low >> 4 };
                let unsigned = nibble | ((pairs >> (2 * quarter)) & 3) << 4;
                *code = unsigned.wrapping_sub(32);
            }
        }
    }
}
