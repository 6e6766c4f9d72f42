//! GGUF's element types: how a block of each lies in a file, and which values it stands for.
//!
//! All numbers are little-endian. A row is cut into blocks; `d`, `m` and `dmin` are `f16`. With `q` the unsigned code of an element:
//!
//! | type | elements | bytes | block | value |
//! | --- | --- | --- | --- | --- |
//! | `Q8_0` | 32 | 34 | `d`, 32 signed bytes `q` | `d q` |
//! | `Q4_0` | 32 | 18 | `d`, 16 bytes: element `j` low and `j + 16` high nibble of byte `j` | `d (q - 8)` |
//! | `Q4_1` | 32 | 20 | `d`, `m`, nibbles as above | `d q + m` |
//! | `Q5_0` | 32 | 22 | `d`, 32 fifth bits (bit `j` for element `j`), nibbles as above | `d (q - 16)` |
//! | `Q5_1` | 32 | 24 | `d`, `m`, fifth bits, nibbles | `d q + m` |
//! | `Q4_K` | 256 | 144 | `d`, `dmin`, 12 bytes of 6-bit `sc` and `mn` for 8 groups of 32, nibbles | `d sc q - dmin mn` |
//! | `Q5_K` | 256 | 176 | `d`, `dmin`, the 12 bytes, 32 bytes of fifth bits, nibbles | `d sc q - dmin mn` |
//! | `Q6_K` | 256 | 210 | 128 bytes of low nibbles, 64 bytes of bit pairs, 16 signed bytes `sc`, `d` | `d sc (q - 32)` |
//!
//! In `Q4_K` and `Q5_K` nibble bytes come in runs of 32: the low nibbles of run `r` are group `2 r`, the high nibbles group `2 r + 1`;
//! bit `g` of fifth-bit byte `l` belongs to element `l` of group `g`. In `Q6_K` each half of 128 elements has 64 nibble bytes and 32
//! bytes of bit pairs; quarter `k` of the half takes bit pair `k` of each of those 32 bytes, and nibbles from the first (`k` even) or
//! second (`k` odd) 32 nibble bytes, low for `k < 2` and high otherwise.

mod block;

use half::{bf16, f16};
use longwave_contract::DType;

use super::RowError;
pub(super) use block::{Block, for_each_block};

/// The element type of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GgmlType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// 8-bit codes in blocks of 32.
    Q8_0,
    /// 4-bit codes in blocks of 32.
    Q4_0,
    /// 4-bit codes in blocks of 32 with a minimum.
    Q4_1,
    /// 5-bit codes in blocks of 32.
    Q5_0,
    /// 5-bit codes in blocks of 32 with a minimum.
    Q5_1,
    /// 4-bit codes in blocks of 256 with two-level scales and minimums.
    Q4K,
    /// 5-bit codes in blocks of 256 with two-level scales and minimums.
    Q5K,
    /// 6-bit codes in blocks of 256 with two-level scales.
    Q6K,
}

/// The most elements that a block has; a multiple of every block.
pub(super) const BLOCK_MAX: usize = 256;

impl GgmlType {
    /// Every supported type.
    pub const ALL: [GgmlType; 11] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Bf16,
        GgmlType::Q8_0,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q4K,
        GgmlType::Q5K,
        GgmlType::Q6K,
    ];

    /// The supported types' names, for messages.
    pub const SUPPORTED: &'static str =
        "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K";

    /// The type with this number in GGUF.
    ///
    /// # Errors
    /// The name of a type that is not supported, or a description of the number.
    pub fn from_id(id: u32) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.id() == id)
            .ok_or_else(|| match unsupported_name(id) {
                Some(name) => name.to_owned(),
                None => format!("number {id}, which is unknown,"),
            })
    }

    /// The type's number in GGUF.
    pub const fn id(self) -> u32 {
        match self {
            GgmlType::F32 => 0,
            GgmlType::F16 => 1,
            GgmlType::Q4_0 => 2,
            GgmlType::Q4_1 => 3,
            GgmlType::Q5_0 => 6,
            GgmlType::Q5_1 => 7,
            GgmlType::Q8_0 => 8,
            GgmlType::Q4K => 12,
            GgmlType::Q5K => 13,
            GgmlType::Q6K => 14,
            GgmlType::Bf16 => 30,
        }
    }

    /// The type's name in GGUF.
    pub const fn name(self) -> &'static str {
        match self {
            GgmlType::F32 => "F32",
            GgmlType::F16 => "F16",
            GgmlType::Bf16 => "BF16",
            GgmlType::Q8_0 => "Q8_0",
            GgmlType::Q4_0 => "Q4_0",
            GgmlType::Q4_1 => "Q4_1",
            GgmlType::Q5_0 => "Q5_0",
            GgmlType::Q5_1 => "Q5_1",
            GgmlType::Q4K => "Q4_K",
            GgmlType::Q5K => "Q5_K",
            GgmlType::Q6K => "Q6_K",
        }
    }

    /// Elements of a block; a row is a whole number of blocks.
    pub const fn block_elements(self) -> u32 {
        match self {
            GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => 1,
            GgmlType::Q8_0 | GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 => {
                32
            }
            GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> u32 {
        match self {
            GgmlType::F32 => 4,
            GgmlType::F16 | GgmlType::Bf16 => 2,
            GgmlType::Q8_0 => 34,
            GgmlType::Q4_0 => 18,
            GgmlType::Q4_1 => 20,
            GgmlType::Q5_0 => 22,
            GgmlType::Q5_1 => 24,
            GgmlType::Q4K => 144,
            GgmlType::Q5K => 176,
            GgmlType::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` elements; `None` when `cols` is not a whole number of blocks or the size overflows.
    pub const fn row_bytes(self, cols: u64) -> Option<u64> {
        let elements = self.block_elements() as u64;
        if cols.is_multiple_of(elements) {
            (cols / elements).checked_mul(self.block_bytes() as u64)
        } else {
            None
        }
    }

    /// Elements that share a scale; `None` for floats.
    pub const fn group(self) -> Option<u32> {
        match self {
            GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => None,
            GgmlType::Q6K => Some(16),
            _ => Some(32),
        }
    }

    /// Whether codes are signed once a constant offset is taken out, so that a group needs no minimum.
    const fn is_signed(self) -> bool {
        matches!(self, GgmlType::Q8_0 | GgmlType::Q5_0 | GgmlType::Q6K)
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Names of types that GGUF has and this engine does not read.
fn unsupported_name(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return None,
    })
}

/// Decodes one row exactly, in `f32`.
///
/// # Errors
/// `bytes` is not the row of `out.len()` elements, or holds a scale or float that is not finite.
pub fn dequantize_row(kind: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), RowError> {
    let mut at = 0;
    let columns = u32::try_from(out.len()).map_err(|_| RowError::Length {
        what: "output",
        expected: u64::from(u32::MAX),
        found: out.len() as u64,
    })?;
    for_each_chunk(kind, columns, bytes, |values| {
        if let Some(target) = out.get_mut(at..at + values.len()) {
            target.copy_from_slice(values);
        }
        at += values.len();
        Ok(())
    })
}

/// Decodes a row in chunks of at most [`BLOCK_MAX`] elements and hands each to `take`.
pub(super) fn for_each_chunk(
    kind: GgmlType,
    cols: u32,
    bytes: &[u8],
    mut take: impl FnMut(&[f32]) -> Result<(), RowError>,
) -> Result<(), RowError> {
    check_row(kind, cols, bytes)?;
    let mut values = [0.0_f32; BLOCK_MAX];
    let Some(group) = kind.group() else {
        let width = kind.block_bytes() as usize;
        for (index, chunk) in bytes.chunks(BLOCK_MAX * width).enumerate() {
            let mut count = 0;
            for (value, bytes) in values.iter_mut().zip(chunk.chunks_exact(width)) {
                *value = float(kind, bytes);
                if !value.is_finite() {
                    let column = (index * BLOCK_MAX + count) as u64;
                    return Err(RowError::Value {
                        column,
                        value: *value,
                        to: DType::F32,
                    });
                }
                count += 1;
            }
            take(values.get(..count).unwrap_or(&values))?;
        }
        return Ok(());
    };
    for_each_block(kind, bytes, |block| {
        let group = group as usize;
        let count = kind.block_elements() as usize;
        let codes = block.codes.chunks_exact(group);
        let scales = block.scales.iter().zip(&block.minimums);
        for ((values, codes), (&scale, &minimum)) in
            values.chunks_exact_mut(group).zip(codes).zip(scales)
        {
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = if kind.is_signed() {
                    scale * f32::from(code.cast_signed())
                } else {
                    scale * f32::from(code) + minimum
                };
            }
        }
        take(values.get(..count).unwrap_or(&values))
    })
}

/// The row has whole blocks, and `bytes` has its length.
pub(super) fn check_row(kind: GgmlType, cols: u32, bytes: &[u8]) -> Result<(), RowError> {
    let Some(expected) = kind.row_bytes(u64::from(cols)) else {
        return Err(RowError::Columns {
            columns: cols,
            multiple: kind.block_elements(),
        });
    };
    if bytes.len() as u64 != expected {
        return Err(RowError::Length {
            what: "row in the file",
            expected,
            found: bytes.len() as u64,
        });
    }
    Ok(())
}

fn float(kind: GgmlType, bytes: &[u8]) -> f32 {
    match (kind, bytes) {
        (GgmlType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (GgmlType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (GgmlType::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        // Callers pass whole elements of a float type; anything else is caught as not finite.
        _ => f32::NAN,
    }
}

#[cfg(test)]
mod tests;
