//! Reading `tokenizer.json`: what is checked before and after the library reads it.

mod processor;

use serde_json::Value;

use super::error::TextError;
use super::pieces::{Kind, Pieces, spelt_bytes};
use super::tokenizer::Parts;
use super::vocabulary::MOST_TOKENS;

/// Reads the contents of a `tokenizer.json`.
///
/// # Errors
/// The file is broken, or of a kind that is not supported.
pub(super) fn read(bytes: &[u8], file: &str) -> Result<(tokenizers::Tokenizer, Parts), TextError> {
    let source = Source { file };
    let json: Value = serde_json::from_slice(bytes).map_err(|why| TextError::Broken {
        field: file.to_owned(),
        why: why.to_string(),
    })?;
    let highest = source.check_model(&json)?;
    let decoder = source.decoder(&json)?;
    let around = source.surroundings(&json)?;
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|why| TextError::Broken {
        field: file.to_owned(),
        why: why.to_string(),
    })?;
    // These serve training on batches; here a text is a text.
    inner
        .with_truncation(None)
        .map_err(|why| source.broken("truncation", why.to_string()))?;
    inner.with_padding(None);
    inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    let highest = source.check_added(&json, &inner)?.max(highest);

    if let Some(&id) = around
        .before
        .iter()
        .chain(&around.after)
        .find(|&&id| inner.id_to_token(id).is_none())
    {
        return Err(source.broken(
            "post_processor",
            format!("adds the token {id}, which the vocabulary does not have"),
        ));
    }

    let added = inner.get_added_tokens_decoder();
    let mut pieces = Pieces::new(decoder.strip);
    for id in 0..=highest {
        match inner.id_to_token(id) {
            None => pieces.add(Kind::Absent, &[]),
            Some(token) => {
                let special = added.get(&id).is_some_and(|token| token.special);
                pieces.add(
                    if special { Kind::Special } else { Kind::Text },
                    &decoder.bytes(&token),
                );
            }
        }
    }
    let unknown = json
        .pointer("/model/unk_token")
        .and_then(Value::as_str)
        .and_then(|token| inner.token_to_id(token));
    let parts = Parts {
        pieces,
        before: around.before,
        after: around.after,
        unknown,
        stop: Vec::new(),
        byte_level: decoder.byte_level,
    };
    Ok((inner, parts))
}

/// How tokens become bytes.
#[derive(Debug, Default)]
struct Decoder {
    byte_level: bool,
    replace: Vec<(String, String)>,
    /// Whether `<0xE4>` spells a byte.
    byte_fallback: bool,
    /// Leading spaces that are taken off a text.
    strip: usize,
}

impl Decoder {
    fn bytes(&self, token: &str) -> Vec<u8> {
        if self.byte_level {
            return spelt_bytes(token).unwrap_or_else(|| token.as_bytes().to_vec());
        }
        let mut text = token.to_owned();
        for (from, to) in &self.replace {
            text = text.replace(from, to);
        }
        let hexadecimal = text
            .strip_prefix("<0x")
            .and_then(|rest| rest.strip_suffix('>'))
            .filter(|digits| digits.len() == 2);
        match hexadecimal
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .filter(|_| self.byte_fallback)
        {
            Some(byte) => vec![byte],
            None => text.into_bytes(),
        }
    }
}

struct Source<'f> {
    file: &'f str,
}

impl Source<'_> {
    fn broken(&self, field: &str, why: String) -> TextError {
        TextError::Broken {
            field: format!("{}: {field}", self.file),
            why,
        }
    }

    fn unsupported(&self, field: &str, found: &str, supported: &str) -> TextError {
        TextError::Unsupported {
            field: format!("{}: {field}", self.file),
            found: found.to_owned(),
            supported: supported.to_owned(),
        }
    }

    /// Checks the vocabulary and merges, with which the library is not careful; returns the highest id.
    fn check_model(&self, json: &Value) -> Result<u32, TextError> {
        let model = json
            .get("model")
            .ok_or_else(|| self.broken("model", "is missing".to_owned()))?;
        // Old files name no type; then there are merges or there are not.
        let named = model.get("type").and_then(Value::as_str);
        if named.unwrap_or("BPE") != "BPE" || model.get("merges").is_none() {
            return Err(self.unsupported("model.type", named.unwrap_or("(missing)"), "BPE"));
        }
        let vocabulary = model.get("vocab").and_then(Value::as_object);
        let vocabulary = vocabulary
            .ok_or_else(|| self.broken("model.vocab", "is missing or is no object".to_owned()))?;
        if vocabulary.is_empty() {
            return Err(self.broken("model.vocab", "is empty".to_owned()));
        }
        let mut highest = 0;
        for (token, id) in vocabulary {
            let id = self.id("model.vocab", token, Some(id))?;
            highest = highest.max(id);
        }
        let prefix = model
            .get("continuing_subword_prefix")
            .and_then(Value::as_str)
            .unwrap_or("");
        let merges = model
            .get("merges")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        for (index, merge) in merges.iter().enumerate() {
            let fault = |why: String| self.broken(&format!("model.merges[{index}]"), why);
            let pair = match merge {
                Value::String(pair) => pair.split_once(' '),
                Value::Array(pair) => match pair.as_slice() {
                    [Value::String(left), Value::String(right)] => {
                        Some((left.as_str(), right.as_str()))
                    }
                    _ => None,
                },
                _ => None,
            };
            let (left, right) = pair.ok_or_else(|| fault("is not two tokens".to_owned()))?;
            let rest = right
                .strip_prefix(prefix)
                .ok_or_else(|| fault(format!("`{right}` does not begin with `{prefix}`")))?;
            for token in [left, right, &format!("{left}{rest}")] {
                if !vocabulary.contains_key(token) {
                    return Err(fault(format!(
                        "needs the token `{}`, which the vocabulary does not have",
                        token.escape_debug()
                    )));
                }
            }
        }
        Ok(highest)
    }

    /// Checks that added tokens have the ids that the file says; returns the highest.
    fn check_added(&self, json: &Value, inner: &tokenizers::Tokenizer) -> Result<u32, TextError> {
        let mut highest = 0;
        for token in json
            .get("added_tokens")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            let content = token
                .get("content")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let id = self.id("added_tokens", content, token.get("id"))?;
            let has = inner.token_to_id(content);
            if has != Some(id) && !content.is_empty() {
                let has = has.map_or("none".to_owned(), |id| id.to_string());
                return Err(self.broken(
                    "added_tokens",
                    format!("`{content}` says id {id}, but its place in the vocabulary is {has}"),
                ));
            }
            highest = highest.max(id);
        }
        Ok(highest)
    }

    fn id(&self, field: &str, token: &str, id: Option<&Value>) -> Result<u32, TextError> {
        let number = id
            .and_then(Value::as_u64)
            .and_then(|id| u32::try_from(id).ok())
            .filter(|&id| (id as usize) < MOST_TOKENS);
        number.ok_or_else(|| {
            let found = id.map_or("missing".to_owned(), Value::to_string);
            self.broken(
                field,
                format!(
                    "the id of `{}` is {found}, expected 0 to {}",
                    token.escape_debug(),
                    MOST_TOKENS - 1
                ),
            )
        })
    }

    /// What the decoder does. Only decoders that can work token by token are supported: a stream needs them so.
    fn decoder(&self, json: &Value) -> Result<Decoder, TextError> {
        const SUPPORTED: &str =
            "ByteLevel, and sequences of Replace, ByteFallback, Fuse, Strip in this order";
        let kind = |step: &Value| {
            step.get("type")
                .and_then(Value::as_str)
                .unwrap_or("(missing)")
                .to_owned()
        };
        let whole = json.get("decoder").unwrap_or(&Value::Null);
        let steps = match whole.get("decoders").and_then(Value::as_array) {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(whole),
        };
        let mut decoder = Decoder::default();
        let mut fused = false;
        for (index, step) in steps.iter().enumerate() {
            let kind = kind(step);
            let refuse = || self.unsupported("decoder", &kind, SUPPORTED);
            let text = |key: &str| {
                step.pointer(key)
                    .and_then(Value::as_str)
                    .map(str::to_owned)
                    .ok_or_else(refuse)
            };
            match kind.as_str() {
                "ByteLevel" if steps.len() == 1 => decoder.byte_level = true,
                "Replace" if !fused && !decoder.byte_fallback => {
                    let from = text("/pattern/String")?;
                    if from.is_empty() {
                        return Err(refuse());
                    }
                    decoder.replace.push((from, text("/content")?));
                }
                "ByteFallback" if !fused => decoder.byte_fallback = true,
                "Fuse" => fused = true,
                "Strip" if fused && index + 1 == steps.len() && text("/content")? == " " => {
                    let number = |key: &str| {
                        step.get(key)
                            .and_then(Value::as_u64)
                            .and_then(|n| usize::try_from(n).ok())
                    };
                    decoder.strip = number("start")
                        .filter(|_| number("stop") == Some(0))
                        .ok_or_else(refuse)?;
                }
                _ => return Err(refuse()),
            }
        }
        if !decoder.byte_level && !fused {
            return Err(self.unsupported("decoder", &kind(whole), SUPPORTED));
        }
        Ok(decoder)
    }
}

#[cfg(test)]
mod tests;
