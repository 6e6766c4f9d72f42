//! What can be wrong with a model file.

use std::fmt::Display;
use std::path::Path;

use longwave_contract::DType;

use super::GgmlType;

/// A model file cannot be used. Each message names the file and the field.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The operating system refused.
    #[error("{file}: cannot {action} the file: {source}")]
    Io {
        /// The file.
        file: String,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file ends too early for what it announces.
    #[error(
        "{file}: {field}: needs {needed} bytes at byte {offset}, but the file ends at byte {length}"
    )]
    Truncated {
        /// The file.
        file: String,
        /// What was being read.
        field: String,
        /// Where it starts.
        offset: u64,
        /// Bytes that it announces or needs at least.
        needed: u128,
        /// Bytes of the file.
        length: u64,
    },
    /// A field has a value that it must not have.
    #[error("{file}: {field}: {problem}")]
    Invalid {
        /// The file.
        file: String,
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something occurs twice that must be unique.
    #[error("{file}: {field} occurs twice")]
    Duplicate {
        /// The file.
        file: String,
        /// What occurs twice.
        field: String,
    },
    /// A metadata key that is needed is missing.
    #[error("{file}: metadata key `{key}` is missing")]
    MissingKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
    },
    /// A metadata value has another type than its reader needs, or does not fit in it.
    #[error("{file}: metadata key `{key}`: expected {expected}, found {found}")]
    KeyType {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// What the reader needs.
        expected: &'static str,
        /// What the file has.
        found: String,
    },
    /// A tensor that is needed is missing.
    #[error("{file}: tensor `{tensor}` is missing")]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has an element type that is not supported.
    #[error(
        "{file}: tensor `{tensor}`: element type {found} is not supported; supported are {supported}"
    )]
    UnsupportedType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The name of its type.
        found: String,
        /// The types that would be.
        supported: &'static str,
    },
    /// A part of a model in several files is missing, or does not belong to the others.
    #[error("{file}: part {part} of {count}: {problem}")]
    Part {
        /// The part's file.
        file: String,
        /// Its number, from 1.
        part: u32,
        /// How many parts there are.
        count: u32,
        /// What is wrong.
        problem: String,
    },
    /// A file that should hold JSON does not, or has a field of the wrong type.
    #[error("{file}: {field}: {source}")]
    Json {
        /// The file.
        file: String,
        /// What was being read.
        field: &'static str,
        /// Where and why reading ended.
        source: serde_json::Error,
    },
    /// A row of a tensor cannot be decoded or repacked.
    #[error("{file}: tensor `{tensor}`, row {row}: {source}")]
    Row {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The row in the file's order.
        row: u64,
        /// What is wrong with it.
        source: RowError,
    },
}

impl FormatError {
    pub(super) fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        FormatError::Io {
            file: path.display().to_string(),
            action,
            source,
        }
    }

    pub(super) fn invalid(file: impl Display, field: impl Display, problem: impl Display) -> Self {
        FormatError::Invalid {
            file: file.to_string(),
            field: field.to_string(),
            problem: problem.to_string(),
        }
    }
}

/// A row cannot be decoded or repacked. [`FormatError::Row`] adds where the row lies.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RowError {
    /// A slice has another length than the row.
    #[error("the {what} has length {found}, but the row needs {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// The length that the row needs.
        expected: u64,
        /// The length that was passed.
        found: u64,
    },
    /// The number of columns is not a multiple of the block.
    #[error("{columns} columns are not a multiple of {multiple}")]
    Columns {
        /// Columns of the row.
        columns: u32,
        /// What they must be a multiple of.
        multiple: u32,
    },
    /// The element type has no exact or documented path to this layout.
    #[error("{from} cannot be repacked as {to}")]
    Layout {
        /// The file's element type.
        from: GgmlType,
        /// The layout that was asked for.
        to: DType,
    },
    /// An element is not finite, or is beyond what the layout's element can hold.
    #[error("the value {value} in column {column} cannot be held as {to}")]
    Value {
        /// The element's column.
        column: u64,
        /// Its value.
        value: f32,
        /// The layout.
        to: DType,
    },
    /// A scale or minimum is not finite, or is beyond `f16`.
    #[error("the {part} of group {group} is {value}, which is not a finite 16-bit float")]
    Scale {
        /// `scale` or `minimum`.
        part: &'static str,
        /// The group within the row.
        group: u64,
        /// The value.
        value: f32,
    },
}

/// A name from a file as it may stand in a message: without control characters, and not endless.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut text: String = name
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}
