//! Parsing everything before a GGUF file's tensor data.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::super::error::shown;
use super::super::{FormatError, GgmlType, TensorInfo};
use super::metadata::Metadata;
use super::reader::Reader;
use super::value::Value;

/// What one GGUF file says about its contents. Every range lies within the file.
#[derive(Clone, Debug)]
pub struct Header {
    /// The format's version: 2 or 3.
    pub version: u32,
    /// Metadata.
    pub metadata: Metadata,
    /// The tensors in the file's order, and where the bytes of each lie in the file.
    pub tensors: Vec<(TensorInfo, Range<usize>)>,
}

/// The longest key that the format allows.
const LONGEST_KEY: usize = 65535;
/// The alignment of tensor data when `general.alignment` does not say.
const ALIGNMENT: u64 = 32;

/// Parses the header of the GGUF file whose bytes these are. `file` is its name, for messages.
///
/// What is allocated grows with what has been read, to less than sixteen times that: counts and lengths that the file announces are
/// compared with what is left of it, and reserve nothing.
///
/// # Errors
/// The bytes are not a complete, consistent GGUF file of version 2 or 3 with supported element types.
pub fn parse(bytes: &[u8], file: &str) -> Result<Header, FormatError> {
    read(&mut Reader::new(file, bytes), bytes.len(), file)
}

/// [`parse`] with a reader of the caller's, which then knows what was allocated.
pub(super) fn read(
    reader: &mut Reader<'_>,
    length: usize,
    file: &str,
) -> Result<Header, FormatError> {
    let version = magic_and_version(reader)?;
    let tensor_count = reader.u64(&"tensor count")?;
    let key_count = reader.u64(&"metadata count")?;
    let metadata = Metadata::new(file, entries(reader, file, key_count)?);
    let alignment = alignment(reader, &metadata)?;
    let described = descriptions(reader, file, tensor_count)?;
    let start = (reader.at() as u64).checked_next_multiple_of(alignment);
    let mut tensors = Vec::new();
    for (info, offset) in described {
        let range = place(reader, length, &info, start, offset, alignment)?;
        reader.push(&mut tensors, (info, range));
    }
    Ok(Header {
        version,
        metadata,
        tensors,
    })
}

fn magic_and_version(reader: &mut Reader<'_>) -> Result<u32, FormatError> {
    let magic: [u8; 4] = reader.array(&"magic")?;
    match &magic {
        b"GGUF" => {}
        b"FUGG" => {
            return Err(reader.invalid(&"magic", "the file is big-endian, which is not supported"));
        }
        b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => {
            return Err(reader.invalid(&"magic", "the file has a format that preceded GGUF"));
        }
        other => {
            let found = other.escape_ascii();
            return Err(reader.invalid(
                &"magic",
                format_args!("expected `GGUF`, found `{found}`: not a GGUF file"),
            ));
        }
    }
    match reader.u32(&"version")? {
        version @ (2 | 3) => Ok(version),
        version if version & 0xffff == 0 && version != 0 => {
            Err(reader.invalid(&"version", "the file is big-endian, which is not supported"))
        }
        version => Err(reader.invalid(
            &"version",
            format_args!("{version} is not supported; versions 2 and 3 are"),
        )),
    }
}

fn entries(
    reader: &mut Reader<'_>,
    file: &str,
    count: u64,
) -> Result<BTreeMap<String, Value>, FormatError> {
    // An entry has at least a length, a type and one byte of value.
    reader.check_count(count, 13, &"metadata count")?;
    let mut entries = BTreeMap::new();
    for index in 0..count {
        let key = reader.string(&format_args!("metadata key {index}"))?;
        if key.is_empty() || key.len() > LONGEST_KEY {
            let problem = format_args!("has {} bytes; a key has 1 to {LONGEST_KEY}", key.len());
            return Err(reader.invalid(&format_args!("metadata key {index}"), problem));
        }
        let shown_key = shown(key);
        if entries.contains_key(key) {
            return Err(FormatError::Duplicate {
                file: file.to_owned(),
                field: format!("metadata key `{shown_key}`"),
            });
        }
        let field = format_args!("metadata key `{shown_key}`");
        let type_id = reader.u32(&field)?;
        let value = Value::read(reader, type_id, &field)?;
        // A tree's nodes are at least half full.
        reader.note_reserved(2 * size_of::<(String, Value)>());
        entries.insert(reader.owned(key), value);
    }
    Ok(entries)
}

fn alignment(reader: &Reader<'_>, metadata: &Metadata) -> Result<u64, FormatError> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.find_u32(KEY)?.map_or(ALIGNMENT, u64::from);
    if alignment < 8 || !alignment.is_power_of_two() {
        let problem = format_args!("{alignment} is not a power of two from 8 upwards");
        return Err(reader.invalid(&format_args!("metadata key `{KEY}`"), problem));
    }
    Ok(alignment)
}

/// Names, shapes and types, with each tensor's offset from the start of the data.
fn descriptions(
    reader: &mut Reader<'_>,
    file: &str,
    count: u64,
) -> Result<Vec<(TensorInfo, u64)>, FormatError> {
    // A name's length, rank, one dimension, type and offset.
    reader.check_count(count, 32, &"tensor count")?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for index in 0..count {
        let name = reader.string(&format_args!("name of tensor {index}"))?;
        if name.is_empty() {
            return Err(reader.invalid(&format_args!("name of tensor {index}"), "is empty"));
        }
        let shown_name = shown(name);
        let field = format_args!("tensor `{shown_name}`");
        if !names.insert(name) {
            return Err(FormatError::Duplicate {
                file: file.to_owned(),
                field: field.to_string(),
            });
        }
        reader.note_reserved(2 * size_of::<&str>());
        let rank = reader.u32(&format_args!("{field}, rank"))?;
        if !(1..=4).contains(&rank) {
            return Err(reader.invalid(
                &field,
                format_args!("has rank {rank}; supported are 1 to 4"),
            ));
        }
        let mut shape = Vec::with_capacity(rank as usize);
        reader.note_reserved(rank as usize * size_of::<u64>());
        for _ in 0..rank {
            let size = reader.u64(&format_args!("{field}, shape"))?;
            if size == 0 {
                return Err(reader.invalid(&field, "has a dimension of 0"));
            }
            shape.push(size);
        }
        shape.reverse();
        let id = reader.u32(&format_args!("{field}, element type"))?;
        let element = GgmlType::from_id(id).map_err(|found| FormatError::UnsupportedType {
            file: file.to_owned(),
            tensor: shown_name.clone(),
            found,
            supported: GgmlType::SUPPORTED,
        })?;
        let offset = reader.u64(&format_args!("{field}, offset"))?;
        let name = reader.owned(name);
        reader.push(
            &mut tensors,
            (
                TensorInfo {
                    name,
                    shape,
                    element,
                },
                offset,
            ),
        );
    }
    Ok(tensors)
}

/// Where a tensor's bytes lie in the file.
fn place(
    reader: &Reader<'_>,
    length: usize,
    info: &TensorInfo,
    start: Option<u64>,
    offset: u64,
    alignment: u64,
) -> Result<Range<usize>, FormatError> {
    let field = format_args!("tensor `{}`", shown(&info.name));
    let size = byte_size(info).map_err(|problem| reader.invalid(&field, problem))?;
    if !offset.is_multiple_of(alignment) {
        return Err(reader.invalid(
            &field,
            format_args!("its offset {offset} is not a multiple of {alignment}"),
        ));
    }
    let range = start.and_then(|start| {
        let first = start.checked_add(offset)?;
        let end = first.checked_add(size)?;
        Some(usize::try_from(first).ok()?..usize::try_from(end).ok()?)
    });
    match range {
        Some(range) if range.end <= length => Ok(range),
        _ => {
            let problem = format_args!(
                "its {size} bytes at offset {offset} of the data lie beyond the file, which has {length} bytes"
            );
            Err(reader.invalid(&field, problem))
        }
    }
}

/// Bytes of a tensor's elements, or what is wrong with its shape.
pub(in super::super) fn byte_size(info: &TensorInfo) -> Result<u64, String> {
    let shape = &info.shape;
    let too_large = || format!("the size of the shape {shape:?} overflows");
    // The number of elements must fit as well, so that nobody has to check it again.
    shape
        .iter()
        .try_fold(1_u64, |product, &size| product.checked_mul(size))
        .ok_or_else(too_large)?;
    let (cols, element) = (info.cols(), info.element);
    if !cols.is_multiple_of(u64::from(element.block_elements())) {
        let block = element.block_elements();
        return Err(format!(
            "its rows of {cols} elements are not a multiple of {element}'s block of {block}"
        ));
    }
    let row = element.row_bytes(cols).ok_or_else(too_large)?;
    row.checked_mul(info.rows()).ok_or_else(too_large)
}
