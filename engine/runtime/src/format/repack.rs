//! From a file's element types to the layouts that devices hold.
//!
//! | in the file | rank 1 | matrix | cost of the matrix's layout |
//! | --- | --- | --- | --- |
//! | `F32` | `F32` | `F16` | rounding: at most 2⁻¹¹ of a value, or 2⁻²⁵ absolute below 2⁻¹⁴ |
//! | `F16` | `F32` | `F16` | exact |
//! | `BF16` | `F32` | `F16` | exact from 2⁻¹⁴ upwards; below it at most 2⁻²⁵ absolute |
//! | `Q8_0` | `F32` | `Q8G32` | exact |
//! | `Q5_0` | `F32` | `Q8G32` | exact: the code is `q - 16` |
//! | `Q5_1` | `F32` | `Q8G32M` | exact |
//! | `Q4_0` | `F32` | `Q4` | exact: the minimum is `-8 d`, and only the exponent changes |
//! | `Q4_1` | `F32` | `Q4` | exact |
//! | `Q4_K` | `F32` | `Q4` | `d sc` and `-dmin mn` are rounded to `f16`: at most 2⁻¹¹ of each |
//! | `Q5_K` | `F32` | `Q8G32M` | as `Q4_K` |
//! | `Q6_K` | `F32` | `Q8G16` | `d sc`, which keeps the sign of `sc`, is rounded to `f16`: at most 2⁻¹¹ of it |
//!
//! The bound for two-level scales has no exception for small scales. `d` is a multiple of 2⁻²⁴, the spacing of subnormal `f16`s, so a
//! product with an integer that falls below 2⁻¹⁴ is held exactly. Over every finite `d` and every factor the largest relative error is
//! 4.88e-4 (a test goes through all of them). In a `Q4_K` group that spans zero, scaled code and minimum are at most 15 steps each, so a
//! value moves by at most 30 / 2048 of a quantisation step.
//!
//! Nothing is clamped: a float that is not finite or beyond 65504 on its way to `F16`, and a scale or minimum that is not finite or that
//! overflows `f16` (a `Q4_0` scale beyond 8188, for one), is an error that names tensor, row and place.

use half::f16;
use longwave_contract::DType;
use rayon::prelude::*;

use super::error::shown;
use super::ggml::{Block, check_row, for_each_block, for_each_chunk};
use super::{FormatError, GgmlType, RowError, TensorInfo};

/// The layout that a tensor of this type and rank gets: `F32` for vectors, and for matrices the table above.
pub const fn target(kind: GgmlType, rank: usize) -> DType {
    if rank < 2 {
        return DType::F32;
    }
    match kind {
        GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => DType::F16,
        GgmlType::Q8_0 | GgmlType::Q5_0 => DType::Q8G32,
        GgmlType::Q5_1 | GgmlType::Q5K => DType::Q8G32M,
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4K => DType::Q4,
        GgmlType::Q6K => DType::Q8G16,
    }
}

/// Bytes of a row of `cols` elements in `layout`, padding included.
pub const fn row_bytes(layout: DType, cols: u32) -> u64 {
    layout.row_bytes(cols)
}

/// Repacks one row of `cols` elements. `source` is the row in the file, `target` exactly [`row_bytes`] long; all of it is written,
/// padding with zeros.
///
/// Besides the layouts that [`target`] names, `F32` (exact) and `F16` (rounded) take every type.
///
/// # Errors
/// A slice has the wrong length, `cols` is not a whole number of blocks, the pair of type and layout is not supported, or a value or
/// scale does not fit.
pub fn repack_row(
    kind: GgmlType,
    layout: DType,
    cols: u32,
    source: &[u8],
    target: &mut [u8],
) -> Result<(), RowError> {
    let format = layout.row_format(cols);
    if target.len() as u64 != format.row_bytes {
        return Err(RowError::Length {
            what: "target",
            expected: format.row_bytes,
            found: target.len() as u64,
        });
    }
    let (codes, scales) = target.split_at_mut((format.scale_offset as usize).min(target.len()));
    match (layout, kind) {
        (DType::F32, _) => floats(
            kind,
            cols,
            source,
            codes,
            |value, _| Ok(value.to_le_bytes()),
        ),
        (DType::F16, _) => floats(kind, cols, source, codes, |value, column| {
            if value.abs() > f16::MAX.to_f32() {
                return Err(RowError::Value {
                    column,
                    value,
                    to: DType::F16,
                });
            }
            Ok(f16::from_f32(value).to_le_bytes())
        }),
        (DType::Q4, GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4K)
        | (DType::Q8G32M, GgmlType::Q5_1 | GgmlType::Q5K)
        | (DType::Q8G32, GgmlType::Q8_0 | GgmlType::Q5_0)
        | (DType::Q8G16, GgmlType::Q6K) => quantised(kind, layout, cols, source, codes, scales),
        _ => Err(RowError::Layout {
            from: kind,
            to: layout,
        }),
    }
}

fn floats<const WIDTH: usize>(
    kind: GgmlType,
    cols: u32,
    source: &[u8],
    target: &mut [u8],
    encode: impl Fn(f32, u64) -> Result<[u8; WIDTH], RowError>,
) -> Result<(), RowError> {
    let (elements, padding) = target.split_at_mut((cols as usize * WIDTH).min(target.len()));
    padding.fill(0);
    let mut places = elements.chunks_exact_mut(WIDTH);
    let mut column = 0;
    for_each_chunk(kind, cols, source, |values| {
        for (&value, place) in values.iter().zip(&mut places) {
            place.copy_from_slice(&encode(value, column)?);
            column += 1;
        }
        Ok(())
    })
}

fn quantised(
    kind: GgmlType,
    layout: DType,
    cols: u32,
    source: &[u8],
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<(), RowError> {
    check_row(kind, cols, source)?;
    let elements = kind.block_elements() as usize;
    let groups = elements / layout.group().unwrap_or(32) as usize;
    let code_bytes = elements * layout.bits() as usize / 8;
    let scale_bytes = if layout.has_minimum() { 4 } else { 2 };
    let mut code_places = codes.chunks_exact_mut(code_bytes);
    let mut scale_places = scales.chunks_exact_mut(scale_bytes);
    let mut group = 0;
    for_each_block(kind, source, |block| {
        if let Some(place) = code_places.next() {
            write_codes(layout, block, place);
        }
        let numbers = block.scales.iter().zip(&block.minimums).take(groups);
        for ((&scale, &minimum), place) in numbers.zip(&mut scale_places) {
            let (scale_place, minimum_place) = place.split_at_mut(2);
            scale_place.copy_from_slice(&to_f16("scale", group, scale)?);
            if layout.has_minimum() {
                minimum_place.copy_from_slice(&to_f16("minimum", group, minimum)?);
            }
            group += 1;
        }
        Ok(())
    })?;
    // Codes of whole groups fill their area; scales may end before theirs does.
    scale_places.for_each(|padding| padding.fill(0));
    Ok(())
}

fn write_codes(layout: DType, block: &Block, place: &mut [u8]) {
    if layout == DType::Q4 {
        // Nibble `e % 8` of little-endian word `e / 8` is a nibble of byte `e / 2`, the low one for even `e`.
        for (byte, pair) in place.iter_mut().zip(block.codes.chunks_exact(2)) {
            if let &[low, high] = pair {
                *byte = low | high << 4;
            }
        }
    } else {
        for (byte, &code) in place.iter_mut().zip(&block.codes) {
            *byte = code;
        }
    }
}

fn to_f16(part: &'static str, group: u64, value: f32) -> Result<[u8; 2], RowError> {
    let rounded = f16::from_f32(value);
    if !rounded.is_finite() {
        return Err(RowError::Scale { part, group, value });
    }
    Ok(rounded.to_le_bytes())
}

/// The rows of a tensor in a file, ready to be repacked.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    file: &'a str,
    tensor: &'a TensorInfo,
    cols: u32,
    rows: u32,
    pitch: usize,
    bytes: &'a [u8],
}

impl<'a> Rows<'a> {
    /// The rows of `tensor`, whose elements are `bytes` of `file`.
    ///
    /// # Errors
    /// The tensor has more than `u32::MAX` rows or columns, or `bytes` is not its size.
    pub fn new(
        file: &'a str,
        tensor: &'a TensorInfo,
        bytes: &'a [u8],
    ) -> Result<Self, FormatError> {
        let invalid = |problem: String| {
            FormatError::invalid(
                file,
                format_args!("tensor `{}`", shown(&tensor.name)),
                problem,
            )
        };
        let too_large = || {
            invalid(format!(
                "the shape {:?} is too large for a matrix",
                tensor.shape
            ))
        };
        let cols = u32::try_from(tensor.cols()).map_err(|_| too_large())?;
        let rows = u32::try_from(tensor.rows()).map_err(|_| too_large())?;
        let pitch = tensor
            .element
            .row_bytes(u64::from(cols))
            .ok_or_else(too_large)?;
        let expected = pitch.checked_mul(u64::from(rows)).ok_or_else(too_large)?;
        if pitch == 0 || bytes.len() as u64 != expected {
            return Err(invalid(format!(
                "has {} bytes, but its shape {:?} needs {expected}",
                bytes.len(),
                tensor.shape
            )));
        }
        Ok(Rows {
            file,
            tensor,
            cols,
            rows,
            pitch: pitch as usize,
            bytes,
        })
    }

    /// The tensor's name, shape and element type.
    pub fn tensor(&self) -> &'a TensorInfo {
        self.tensor
    }

    /// Elements of a row.
    pub fn cols(&self) -> u32 {
        self.cols
    }

    /// How many rows there are.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The layout that [`target`] gives this tensor.
    pub fn target(&self) -> DType {
        target(self.tensor.element, self.tensor.rank())
    }

    /// One row as it lies in the file.
    pub fn row(&self, row: u32) -> Option<&'a [u8]> {
        self.bytes.chunks_exact(self.pitch).nth(row as usize)
    }

    /// Decodes row `row` exactly, in `f32`.
    ///
    /// # Errors
    /// There is no such row, `out` has not [`Rows::cols`] elements, or the row holds something that is not finite.
    pub fn dequantize(&self, row: u32, out: &mut [f32]) -> Result<(), FormatError> {
        let bytes = self.row(row).ok_or_else(|| self.no_row(row))?;
        super::ggml::dequantize_row(self.tensor.element, bytes, out)
            .map_err(|source| self.row_error(row, source))
    }

    fn no_row(&self, row: u32) -> FormatError {
        let problem = format!("row {row} of {} was asked for", self.rows);
        FormatError::invalid(
            self.file,
            format_args!("tensor `{}`", shown(&self.tensor.name)),
            problem,
        )
    }

    fn row_error(&self, row: u32, source: RowError) -> FormatError {
        FormatError::Row {
            file: self.file.to_owned(),
            tensor: shown(&self.tensor.name),
            row: u64::from(row),
            source,
        }
    }
}

/// Repacks rows in parallel. Row `i` of `target` is row `order[i]` of the file, or row `i` without an order.
///
/// An order may repeat or leave out rows; `target` has `order.len()` (or [`Rows::rows`]) rows of [`row_bytes`]. It is how rows that
/// a file keeps permuted, such as queries and keys of interleaved rotary pairs, get into place.
///
/// # Errors
/// `target` has the wrong length, `order` names a row that does not exist, or a row cannot be repacked; of several such rows the first
/// in `target` is reported, so the message does not depend on timing.
pub fn repack_rows(
    rows: &Rows<'_>,
    layout: DType,
    order: Option<&[u32]>,
    target: &mut [u8],
) -> Result<(), FormatError> {
    let count = order.map_or(u64::from(rows.rows), |order| order.len() as u64);
    let pitch = row_bytes(layout, rows.cols);
    if pitch.checked_mul(count) != Some(target.len() as u64) {
        let problem = format!(
            "{count} rows of {pitch} bytes do not fill a target of {} bytes",
            target.len()
        );
        return Err(FormatError::invalid(
            rows.file,
            format_args!("tensor `{}`", shown(&rows.tensor.name)),
            problem,
        ));
    }
    let failed = target
        .par_chunks_exact_mut((pitch as usize).max(1))
        .enumerate()
        .find_map_first(|(index, target)| {
            let row = match order {
                Some(order) => order.get(index).copied().unwrap_or(u32::MAX),
                // The index is below the number of rows, which is a u32.
                None => index as u32,
            };
            let start = row as usize * rows.pitch;
            let Some(source) = rows.bytes.get(start..start.saturating_add(rows.pitch)) else {
                return Some(rows.no_row(row));
            };
            let result = repack_row(rows.tensor.element, layout, rows.cols, source, target);
            result.err().map(|error| rows.row_error(row, error))
        });
    failed.map_or(Ok(()), Err)
}

/// Reads a repacked row back, by the formulas of [`DType`]. It is what a kernel computes; for tests and reports.
///
/// # Errors
/// `row` is not the row of `out.len()` elements, or the layout is `U32`, which holds no weights.
pub fn unpack_row(layout: DType, row: &[u8], out: &mut [f32]) -> Result<(), RowError> {
    let cols = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let format = layout.row_format(cols);
    if row.len() as u64 != format.row_bytes || out.len() as u64 != u64::from(cols) {
        return Err(RowError::Length {
            what: "repacked row",
            expected: format.row_bytes,
            found: row.len() as u64,
        });
    }
    if !cols.is_multiple_of(layout.column_multiple()) {
        return Err(RowError::Columns {
            columns: cols,
            multiple: layout.column_multiple(),
        });
    }
    let (codes, scales) = row.split_at((format.scale_offset as usize).min(row.len()));
    let half = |bytes: &[u8], at: usize| match bytes.get(at..at + 2) {
        Some(&[low, high]) => f16::from_le_bytes([low, high]).to_f32(),
        _ => f32::NAN,
    };
    let code = |column: usize| codes.get(column).copied().unwrap_or(0);
    for (column, out) in out.iter_mut().enumerate() {
        let group = column / layout.group().unwrap_or(1) as usize;
        *out = match layout {
            DType::F32 => codes
                .get(column * 4..)
                .and_then(|b| b.first_chunk())
                .map_or(f32::NAN, |&b| f32::from_le_bytes(b)),
            DType::F16 => half(codes, column * 2),
            DType::Q4 => {
                let code = (code(column / 2) >> (4 * (column % 2))) & 15;
                half(scales, group * 4) * f32::from(code) + half(scales, group * 4 + 2)
            }
            DType::Q8G32M => {
                half(scales, group * 4) * f32::from(code(column)) + half(scales, group * 4 + 2)
            }
            DType::Q8G32 | DType::Q8G16 => {
                half(scales, group * 2) * f32::from(code(column).cast_signed())
            }
            DType::U32 => {
                return Err(RowError::Columns {
                    columns: cols,
                    multiple: 0,
                });
            }
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
