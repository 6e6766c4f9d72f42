//! Metadata by key, with typed getters.

use std::collections::BTreeMap;

use super::super::FormatError;
use super::super::error::shown;
use super::value::{Array, Value};

/// A file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    file: String,
    entries: BTreeMap<String, Value>,
}

/// `get_x(key)` fails when the key is missing, `find_x(key)` returns `None`. Both fail when the value has another type.
macro_rules! getters {
    ($($get:ident, $find:ident, $kind:ty, $expected:literal, $convert:expr;)*) => {$(
        #[doc = concat!("The value of a key that must be there: ", $expected, ".")]
        ///
        /// # Errors
        /// The key is missing, or its value has another type or does not fit.
        pub fn $get<'a>(&'a self, key: &str) -> Result<$kind, FormatError> {
            self.$find(key)?.ok_or_else(|| self.missing(key))
        }

        #[doc = concat!("The value of a key that may be missing: ", $expected, ".")]
        ///
        /// # Errors
        /// The value has another type or does not fit.
        pub fn $find<'a>(&'a self, key: &str) -> Result<Option<$kind>, FormatError> {
            let convert: fn(&'a Value) -> Option<$kind> = $convert;
            let Some(value) = self.get(key) else { return Ok(None) };
            match convert(value) {
                Some(converted) => Ok(Some(converted)),
                None => Err(self.mismatch(key, $expected, value)),
            }
        }
    )*};
}

#[expect(
    clippy::needless_lifetimes,
    reason = "the types of some getters name the lifetime"
)]
impl Metadata {
    pub(super) fn new(file: &str, entries: BTreeMap<String, Value>) -> Self {
        Metadata {
            file: file.to_owned(),
            entries,
        }
    }

    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Every key with its value, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    getters! {
        get_u32, find_u32, u32, "an integer from 0 to 2^32 - 1", |value| value.as_u64()?.try_into().ok();
        get_i32, find_i32, i32, "an integer from -2^31 to 2^31 - 1", |value| value.as_i64()?.try_into().ok();
        get_u64, find_u64, u64, "an integer that is not negative", Value::as_u64;
        get_f32, find_f32, f32, "a finite float", float;
        get_bool, find_bool, bool, "a bool", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        };
        get_str, find_str, &'a str, "a string", |value| match value {
            Value::Str(value) => Some(value),
            _ => None,
        };
        get_array_str, find_array_str, &'a [String], "an array of strings", |value| match value {
            Value::Array(Array::Str(items)) => Some(items),
            _ => None,
        };
        get_array_bool, find_array_bool, &'a [bool], "an array of bools", |value| match value {
            Value::Array(Array::Bool(items)) => Some(items),
            _ => None,
        };
        get_array_i32, find_array_i32, Vec<i32>, "an array of integers from -2^31 to 2^31 - 1", |value| match value {
            Value::Array(items) => items.as_i64()?.into_iter().map(|item| item.try_into().ok()).collect(),
            _ => None,
        };
        get_array_u32, find_array_u32, Vec<u32>, "an array of integers from 0 to 2^32 - 1", |value| match value {
            Value::Array(items) => items.as_i64()?.into_iter().map(|item| item.try_into().ok()).collect(),
            _ => None,
        };
        get_array_f32, find_array_f32, Vec<f32>, "an array of floats", |value| match value {
            Value::Array(Array::F32(items)) => Some(items.clone()),
            Value::Array(Array::F64(items)) => Some(items.iter().map(|&item| item as f32).collect()),
            _ => None,
        };
    }

    pub(super) fn missing(&self, key: &str) -> FormatError {
        FormatError::MissingKey {
            file: self.file.clone(),
            key: key.to_owned(),
        }
    }

    fn mismatch(&self, key: &str, expected: &'static str, value: &Value) -> FormatError {
        let found = match value {
            Value::Array(_) => value.type_name(),
            Value::Str(text) => format!("the string `{}`", shown(text)),
            number => format!("{number:?}"),
        };
        FormatError::KeyType {
            file: self.file.clone(),
            key: key.to_owned(),
            expected,
            found,
        }
    }
}

fn float(value: &Value) -> Option<f32> {
    let value = match *value {
        Value::F32(value) => value,
        Value::F64(value) => value as f32,
        _ => return None,
    };
    value.is_finite().then_some(value)
}
