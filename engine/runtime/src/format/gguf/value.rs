//! Metadata values.

use std::fmt::Display;

use super::super::FormatError;
use super::reader::Reader;

/// Arrays within arrays may be this deep; models use one level.
pub(super) const DEEPEST: u32 = 8;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the type that its name says")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of metadata values, all of one type.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the type that its name says")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Str(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Names and numbers of the value types, in the order of their numbers in GGUF.
const NAMES: [&str; 13] = [
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64",
];

impl Value {
    /// The type's number in GGUF.
    pub fn type_id(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Str(_) => 8,
            Value::Array(_) => 9,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }

    /// The type in words, for messages.
    pub fn type_name(&self) -> String {
        match self {
            Value::Array(array) => format!("an array of {} {}", array.len(), name(array.type_id())),
            other => name(other.type_id()).to_owned(),
        }
    }

    /// An unsigned value of any width, or a signed one that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(value) => Some(value.into()),
            Value::U16(value) => Some(value.into()),
            Value::U32(value) => Some(value.into()),
            Value::U64(value) => Some(value),
            _ => self.as_i64()?.try_into().ok(),
        }
    }

    /// An integer of any width that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::U8(value) => Some(value.into()),
            Value::I8(value) => Some(value.into()),
            Value::U16(value) => Some(value.into()),
            Value::I16(value) => Some(value.into()),
            Value::U32(value) => Some(value.into()),
            Value::I32(value) => Some(value.into()),
            Value::U64(value) => value.try_into().ok(),
            Value::I64(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn read(
        reader: &mut Reader<'_>,
        type_id: u32,
        field: &dyn Display,
    ) -> Result<Self, FormatError> {
        Ok(match type_id {
            0 => Value::U8(u8::from_le_bytes(reader.array(field)?)),
            1 => Value::I8(i8::from_le_bytes(reader.array(field)?)),
            2 => Value::U16(u16::from_le_bytes(reader.array(field)?)),
            3 => Value::I16(i16::from_le_bytes(reader.array(field)?)),
            4 => Value::U32(reader.u32(field)?),
            5 => Value::I32(i32::from_le_bytes(reader.array(field)?)),
            6 => Value::F32(f32::from_le_bytes(reader.array(field)?)),
            7 => Value::Bool(boolean(reader, field)?),
            8 => {
                let text = reader.string(field)?;
                Value::Str(reader.owned(text))
            }
            9 => Value::Array(Array::read(reader, 0, field)?),
            10 => Value::U64(reader.u64(field)?),
            11 => Value::I64(i64::from_le_bytes(reader.array(field)?)),
            12 => Value::F64(f64::from_le_bytes(reader.array(field)?)),
            _ => {
                return Err(
                    reader.invalid(field, format_args!("has the unknown value type {type_id}"))
                );
            }
        })
    }
}

impl Array {
    /// The element type's number in GGUF.
    pub fn type_id(&self) -> u32 {
        match self {
            Array::U8(_) => 0,
            Array::I8(_) => 1,
            Array::U16(_) => 2,
            Array::I16(_) => 3,
            Array::U32(_) => 4,
            Array::I32(_) => 5,
            Array::F32(_) => 6,
            Array::Bool(_) => 7,
            Array::Str(_) => 8,
            Array::Array(_) => 9,
            Array::U64(_) => 10,
            Array::I64(_) => 11,
            Array::F64(_) => 12,
        }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(items) => items.len(),
            Array::I8(items) => items.len(),
            Array::U16(items) => items.len(),
            Array::I16(items) => items.len(),
            Array::U32(items) => items.len(),
            Array::I32(items) => items.len(),
            Array::F32(items) => items.len(),
            Array::Bool(items) => items.len(),
            Array::Str(items) => items.len(),
            Array::Array(items) => items.len(),
            Array::U64(items) => items.len(),
            Array::I64(items) => items.len(),
            Array::F64(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as integers, if they are integers that fit.
    pub fn as_i64(&self) -> Option<Vec<i64>> {
        Some(match self {
            Array::U8(items) => items.iter().map(|&item| item.into()).collect(),
            Array::I8(items) => items.iter().map(|&item| item.into()).collect(),
            Array::U16(items) => items.iter().map(|&item| item.into()).collect(),
            Array::I16(items) => items.iter().map(|&item| item.into()).collect(),
            Array::U32(items) => items.iter().map(|&item| item.into()).collect(),
            Array::I32(items) => items.iter().map(|&item| item.into()).collect(),
            Array::U64(items) => return items.iter().map(|&item| item.try_into().ok()).collect(),
            Array::I64(items) => items.clone(),
            _ => return None,
        })
    }

    fn read(reader: &mut Reader<'_>, depth: u32, field: &dyn Display) -> Result<Self, FormatError> {
        if depth >= DEEPEST {
            return Err(reader.invalid(
                field,
                format_args!("has arrays nested more than {DEEPEST} deep"),
            ));
        }
        let type_id = reader.u32(field)?;
        let count = reader.u64(field)?;
        Ok(match type_id {
            0 => Array::U8(numbers(reader, count, field, u8::from_le_bytes)?),
            1 => Array::I8(numbers(reader, count, field, i8::from_le_bytes)?),
            2 => Array::U16(numbers(reader, count, field, u16::from_le_bytes)?),
            3 => Array::I16(numbers(reader, count, field, i16::from_le_bytes)?),
            4 => Array::U32(numbers(reader, count, field, u32::from_le_bytes)?),
            5 => Array::I32(numbers(reader, count, field, i32::from_le_bytes)?),
            6 => Array::F32(numbers(reader, count, field, f32::from_le_bytes)?),
            7 => {
                reader.check_count(count, 1, field)?;
                let mut items = Vec::new();
                for _ in 0..count {
                    let item = boolean(reader, field)?;
                    reader.push(&mut items, item);
                }
                Array::Bool(items)
            }
            8 => {
                reader.check_count(count, 8, field)?;
                let mut items = Vec::new();
                for index in 0..count {
                    let text = reader.string(&format_args!("{field}, element {index}"))?;
                    let text = reader.owned(text);
                    reader.push(&mut items, text);
                }
                Array::Str(items)
            }
            9 => {
                reader.check_count(count, 12, field)?;
                let mut items = Vec::new();
                for _ in 0..count {
                    let item = Array::read(reader, depth + 1, field)?;
                    reader.push(&mut items, item);
                }
                Array::Array(items)
            }
            10 => Array::U64(numbers(reader, count, field, u64::from_le_bytes)?),
            11 => Array::I64(numbers(reader, count, field, i64::from_le_bytes)?),
            12 => Array::F64(numbers(reader, count, field, f64::from_le_bytes)?),
            _ => {
                return Err(reader.invalid(
                    field,
                    format_args!("has elements of the unknown value type {type_id}"),
                ));
            }
        })
    }
}

fn name(type_id: u32) -> &'static str {
    NAMES.get(type_id as usize).copied().unwrap_or("unknown")
}

fn boolean(reader: &mut Reader<'_>, field: &dyn Display) -> Result<bool, FormatError> {
    match reader.array(field)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(reader.invalid(field, format_args!("is a bool with the value {other}"))),
    }
}

fn numbers<const N: usize, T>(
    reader: &mut Reader<'_>,
    count: u64,
    field: &dyn Display,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>, FormatError> {
    reader.check_count(count, N, field)?;
    // Does not overflow: the count was checked against what is left of the file.
    let bytes = reader.take(count * N as u64, field)?;
    let items: Vec<T> = bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|&bytes| decode(bytes))
        .collect();
    reader.note_reserved(bytes.len());
    Ok(items)
}
