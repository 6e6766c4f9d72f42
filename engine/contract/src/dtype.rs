//! Element types, and how a row of each lies in memory.

/// Every row of a tensor starts at a multiple of this many bytes, so that kernels may load four words at once.
pub const ROW_ALIGN: u64 = 16;

/// The element type of a tensor, including the internal layouts of quantised weights.
///
/// A quantised row holds its codes first, then its scales, each padded to 16 bytes with zeros, all as little-endian `u32` words
/// (see [`RowFormat`]). Rows are self-contained, so a matrix can be cut between any two rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float: activations, norms, biases, logits.
    F32,
    /// 16-bit float: weights, and the rows of the KV cache.
    F16,
    /// 32-bit unsigned: step tables, views, entries.
    U32,
    /// 4-bit codes in groups of 32: `value = scale * code + minimum`. Element `e` is nibble `e % 8` of code word `e / 8`, the low nibble
    /// first; the word of a group's scale is `f16 scale | f16 minimum << 16`.
    Q4,
    /// Signed 8-bit codes in groups of 32: `value = scale * code`. Element `e` is byte `e % 4` of code word `e / 4`; a scale word holds
    /// the `f16` scales of two groups, the even group in the low half.
    Q8G32,
    /// As [`DType::Q8G32`] with groups of 16.
    Q8G16,
    /// Unsigned 8-bit codes in groups of 32 with a minimum: `value = scale * code + minimum`, scale words as in [`DType::Q4`].
    Q8G32M,
}

/// Where codes and scales lie in one row. All numbers are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowFormat {
    /// From the row's start to its scales; the codes lie before. Equal to `row_bytes` where there are no scales.
    pub scale_offset: u64,
    /// From one row's start to the next.
    pub row_bytes: u64,
}

impl DType {
    /// Every element type, in the order of the enum.
    pub const ALL: [DType; 7] = [
        DType::F32,
        DType::F16,
        DType::U32,
        DType::Q4,
        DType::Q8G32,
        DType::Q8G16,
        DType::Q8G32M,
    ];

    /// The types that a weight matrix may have.
    pub const WEIGHTS: [DType; 5] = [
        DType::F16,
        DType::Q4,
        DType::Q8G32,
        DType::Q8G16,
        DType::Q8G32M,
    ];

    /// The name that error messages, kernels and `inspect` use.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::U32 => "u32",
            DType::Q4 => "q4",
            DType::Q8G32 => "q8g32",
            DType::Q8G16 => "q8g16",
            DType::Q8G32M => "q8g32m",
        }
    }

    /// Bits of one code or element, scales not counted.
    pub const fn bits(self) -> u64 {
        match self {
            DType::F32 | DType::U32 => 32,
            DType::F16 => 16,
            DType::Q8G32 | DType::Q8G16 | DType::Q8G32M => 8,
            DType::Q4 => 4,
        }
    }

    /// Elements that share a scale, for the quantised types.
    pub const fn group(self) -> Option<u32> {
        match self {
            DType::Q4 | DType::Q8G32 | DType::Q8G32M => Some(32),
            DType::Q8G16 => Some(16),
            DType::F32 | DType::F16 | DType::U32 => None,
        }
    }

    /// Whether each group has a minimum beside its scale.
    pub const fn has_minimum(self) -> bool {
        matches!(self, DType::Q4 | DType::Q8G32M)
    }

    /// How many columns a row must be a multiple of: 32 for every quantised type, 1 otherwise.
    pub const fn column_multiple(self) -> u32 {
        match self.group() {
            Some(_) => 32,
            None => 1,
        }
    }

    /// Where things lie in a row of `cols` elements.
    pub const fn row_format(self, cols: u32) -> RowFormat {
        let codes = (cols as u64 * self.bits())
            .div_ceil(8)
            .next_multiple_of(ROW_ALIGN);
        let scales = match self.group() {
            None => 0,
            Some(group) => {
                let bytes = if self.has_minimum() { 4 } else { 2 };
                (cols as u64).div_ceil(group as u64) * bytes
            }
        };
        RowFormat {
            scale_offset: codes,
            row_bytes: codes + scales.next_multiple_of(ROW_ALIGN),
        }
    }

    /// Bytes from one row to the next for rows of `cols` elements.
    pub const fn row_bytes(self, cols: u32) -> u64 {
        self.row_format(cols).row_bytes
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_codes_then_scales_each_padded() {
        assert_eq!(DType::F32.row_bytes(3), 16);
        assert_eq!(DType::F16.row_bytes(576), 1152);
        let q4 = DType::Q4.row_format(576);
        assert_eq!((q4.scale_offset, q4.row_bytes), (288, 288 + 80));
        let q8 = DType::Q8G32.row_format(896);
        assert_eq!((q8.scale_offset, q8.row_bytes), (896, 896 + 64));
        let q6 = DType::Q8G16.row_format(896);
        assert_eq!((q6.scale_offset, q6.row_bytes), (896, 896 + 112));
    }
}
