//! JSON into templates, and out of them as Python writes it.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use serde_json::Value as Json;

/// Deeper nesting is refused.
const DEEPEST: usize = 100;

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

/// A JSON value as templates see it.
///
/// # Errors
/// It is nested too deeply.
pub(super) fn to_value(json: &Json) -> Result<Value, Error> {
    convert(json, 0)
}

fn convert(json: &Json, depth: usize) -> Result<Value, Error> {
    if depth > DEEPEST {
        return Err(invalid(format!("JSON is nested deeper than {DEEPEST}")));
    }
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Value::from(number),
            (_, Some(number), _) => Value::from(number),
            (_, _, Some(number)) => Value::from(number),
            _ => {
                return Err(invalid(format!(
                    "{number} is no number that a template can hold"
                )));
            }
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => items
            .iter()
            .map(|item| convert(item, depth + 1))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .collect(),
        Json::Object(fields) => {
            let pair =
                |(key, value): (&String, &Json)| Ok((key.clone(), convert(value, depth + 1)?));
            Value::from_pairs(fields.iter().map(pair).collect::<Result<Vec<_>, Error>>()?)
        }
    })
}

/// How JSON is written: the arguments of Python's `json.dumps`.
#[derive(Debug)]
pub(super) struct Style {
    ascii: bool,
    /// What each level is indented by; without it all is on one line.
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

impl Style {
    /// # Errors
    /// An option has the wrong type.
    pub(super) fn new(
        ascii: bool,
        indent: Option<Value>,
        separators: Option<Value>,
        sorted: Option<bool>,
    ) -> Result<Self, Error> {
        let indent = match indent.filter(|value| !value.is_none()) {
            None => None,
            Some(value) => match (value.as_str(), value.as_i64()) {
                (Some(text), _) => Some(text.to_owned()),
                (None, Some(width)) if width <= 64 => {
                    Some(" ".repeat(usize::try_from(width).unwrap_or(0)))
                }
                _ => {
                    return Err(invalid(
                        "tojson: indent must be a string or a number up to 64",
                    ));
                }
            },
        };
        let mut style = Style {
            ascii,
            item: ", ".to_owned(),
            key: ": ".to_owned(),
            sorted: sorted.unwrap_or(false),
            indent,
        };
        if style.indent.is_some() {
            style.item = ",".to_owned();
        }
        if let Some(pair) = separators.filter(|value| !value.is_none()) {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            let [item, key] = pair.as_slice() else {
                return Err(invalid("tojson: separators must be two strings"));
            };
            let text = |value: &Value| {
                value
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| invalid("tojson: separators must be two strings"))
            };
            (style.item, style.key) = (text(item)?, text(key)?);
        }
        Ok(style)
    }

    /// # Errors
    /// The value has no JSON, or is nested too deeply.
    pub(super) fn write(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.value(value, 0, &mut out)?;
        Ok(out)
    }

    fn value(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(invalid(format!("tojson: nested deeper than {DEEPEST}")));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => number(value, out)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(['[', ']'], items, depth, out, |style, item, out| {
                    style.value(item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys = Vec::new();
                for key in value.try_iter()? {
                    keys.push((key_text(&key)?, key));
                }
                if self.sorted {
                    keys.sort_by(|(left, _), (right, _)| left.cmp(right));
                }
                self.list(['{', '}'], keys, depth, out, |style, (text, key), out| {
                    style.string(text, out);
                    out.push_str(&style.key);
                    style.value(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            kind => return Err(invalid(format!("tojson: {kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn list<T>(
        &self,
        brackets: [char; 2],
        items: Vec<T>,
        depth: usize,
        out: &mut String,
        write: impl Fn(&Self, &T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push(brackets[0]);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            line(depth + 1, out);
            write(self, item, out)?;
        }
        if !items.is_empty() {
            line(depth, out);
        }
        out.push(brackets[1]);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{C}' => out.push_str("\\f"),
                _ if character < ' '
                    || (self.ascii
                        && !(' '..='~').contains(&character)
                        && character != '\u{7F}') =>
                {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        // Writing to a string does not fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                _ => out.push(character),
            }
        }
        out.push('"');
    }
}

/// A key as Python turns it into a string.
fn key_text(key: &Value) -> Result<String, Error> {
    let mut text = String::new();
    match key.kind() {
        ValueKind::String => text.push_str(key.as_str().unwrap_or_default()),
        ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if key.is_true() { "true" } else { "false" }),
        ValueKind::Number => number(key, &mut text)?,
        kind => {
            return Err(invalid(format!(
                "tojson: a key must be a string, not {kind}"
            )));
        }
    }
    Ok(text)
}

/// A number as Python writes it: the fewest digits that tell it from others, with an exponent below 1e-4 and from 1e16.
fn number(value: &Value, out: &mut String) -> Result<(), Error> {
    if value.is_integer() {
        out.push_str(&value.to_string());
        return Ok(());
    }
    let number = f64::try_from(value.clone())?;
    let text = match number {
        _ if number.is_nan() => "NaN".to_owned(),
        _ if number.is_infinite() => if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned(),
        _ if number == 0.0 || (1e-4..1e16).contains(&number.abs()) => format!("{number:?}"),
        _ => {
            let scientific = format!("{number:e}");
            let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            match exponent.strip_prefix('-') {
                Some(exponent) => format!("{digits}e-{exponent:0>2}"),
                None => format!("{digits}e+{exponent:0>2}"),
            }
        }
    };
    out.push_str(&text);
    Ok(())
}
