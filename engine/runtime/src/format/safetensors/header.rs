//! Parsing a safetensors header: eight bytes of length, JSON, then the data without gaps.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::super::error::shown;
use super::super::gguf::byte_size;
use super::super::{FormatError, GgmlType, TensorInfo};

/// What a safetensors file says about its contents. Every range lies within the file.
#[derive(Clone, Debug)]
pub struct Header {
    /// The tensors in the order of the data, and where the bytes of each lie in the file.
    pub tensors: Vec<(TensorInfo, Range<usize>)>,
    /// Text that the writer added, as `__metadata__`.
    pub metadata: HashMap<String, String>,
}

/// The largest header that the format allows, in bytes.
const LARGEST_HEADER: u64 = 100_000_000;
/// The format sets no limit; models stay below this.
const LARGEST_RANK: usize = 8;

/// Parses the header of the safetensors file whose bytes these are. `file` is its name, for messages.
///
/// # Errors
/// The bytes are not a complete, consistent safetensors file with supported element types.
pub fn parse(bytes: &[u8], file: &str) -> Result<Header, FormatError> {
    let truncated = |field: &str, offset: u64, needed: u64| FormatError::Truncated {
        file: file.to_owned(),
        field: field.to_owned(),
        offset,
        needed: u128::from(needed),
        length: bytes.len() as u64,
    };
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Err(truncated("header length", 0, 8));
    };
    let length = u64::from_le_bytes(*length);
    if length > LARGEST_HEADER {
        let problem = format_args!(
            "{length} is above the format's limit of {LARGEST_HEADER}: not a safetensors file"
        );
        return Err(FormatError::invalid(file, "header length", problem));
    }
    let Some((json, data)) = rest.split_at_checked(length as usize) else {
        return Err(truncated("header", 8, length));
    };
    let raw: RawHeader = serde_json::from_slice(json).map_err(|source| FormatError::Json {
        file: file.to_owned(),
        field: "header",
        source,
    })?;
    let start = bytes.len() - data.len();
    let tensors = check(raw.tensors, file, start, data.len())?;
    Ok(Header {
        tensors,
        metadata: raw.metadata,
    })
}

fn check(
    raw: Vec<(String, RawTensor)>,
    file: &str,
    start: usize,
    length: usize,
) -> Result<Vec<(TensorInfo, Range<usize>)>, FormatError> {
    let mut seen = HashSet::new();
    if let Some((name, _)) = raw.iter().find(|(name, _)| !seen.insert(name.as_str())) {
        return Err(FormatError::Duplicate {
            file: file.to_owned(),
            field: format!("tensor `{}`", shown(name)),
        });
    }
    let mut raw = raw;
    raw.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut tensors = Vec::with_capacity(raw.len());
    let mut end_before = 0;
    for (
        name,
        RawTensor {
            dtype,
            shape,
            data_offsets: [first, end],
        },
    ) in raw
    {
        let shown_name = shown(&name);
        let invalid = |problem: String| {
            FormatError::invalid(file, format_args!("tensor `{shown_name}`"), problem)
        };
        let element = match dtype.as_str() {
            "F32" => GgmlType::F32,
            "F16" => GgmlType::F16,
            "BF16" => GgmlType::Bf16,
            other => {
                return Err(FormatError::UnsupportedType {
                    file: file.to_owned(),
                    tensor: shown_name,
                    found: shown(other),
                    supported: "F32, F16, BF16",
                });
            }
        };
        if shape.len() > LARGEST_RANK || shape.contains(&0) {
            return Err(invalid(format!(
                "the shape {shape:?} has more than {LARGEST_RANK} dimensions or one of 0"
            )));
        }
        let info = TensorInfo {
            name,
            shape,
            element,
        };
        let size = byte_size(&info).map_err(&invalid)?;
        if first != end_before {
            let problem = format!(
                "its data starts at offset {first}, but the tensor before it ends at {end_before}"
            );
            return Err(invalid(problem));
        }
        if first.checked_add(size) != Some(end) {
            let problem = format!(
                "its offsets {first} to {end} do not match the {size} bytes of its shape {:?}",
                info.shape
            );
            return Err(invalid(problem));
        }
        if end > length as u64 {
            return Err(invalid(format!(
                "its data ends at offset {end}, but the file has {length} bytes of data"
            )));
        }
        // Both are at most the file's length, which is a usize.
        tensors.push((info, start + first as usize..start + end as usize));
        end_before = end;
    }
    if end_before != length as u64 {
        let problem = format_args!(
            "the file has {length} bytes of data, but its tensors end at {end_before}"
        );
        return Err(FormatError::invalid(file, "data", problem));
    }
    Ok(tensors)
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The JSON object, with its tensors in a list so that a repeated name is seen.
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: HashMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader {
            tensors: Vec::new(),
            metadata: HashMap::new(),
        };
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                header.metadata = map
                    .next_value()
                    .map_err(|error| A::Error::custom(format_args!("`__metadata__`: {error}")))?;
            } else {
                let tensor = map.next_value();
                let tensor = tensor.map_err(|error| {
                    A::Error::custom(format_args!("tensor `{}`: {error}", shown(&name)))
                })?;
                header.tensors.push((name, tensor));
            }
        }
        Ok(header)
    }
}
