//! What a `tokenizer.json` puts around every text. The library's own processors fail badly on broken files, and all that they do for a
//! single text is to add tokens before and after it.

use serde_json::Value;

use super::Source;
use crate::text::error::TextError;

/// Tokens before and after every text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

impl Source<'_> {
    /// What the file's `post_processor` adds.
    ///
    /// # Errors
    /// It is broken, or of a kind that is not supported.
    pub(super) fn surroundings(&self, json: &Value) -> Result<Surroundings, TextError> {
        let mut around = Surroundings::default();
        let whole = json.get("post_processor").unwrap_or(&Value::Null);
        let steps = match whole.get("processors").and_then(Value::as_array) {
            Some(steps) => steps.as_slice(),
            None if whole.is_null() => &[],
            None => std::slice::from_ref(whole),
        };
        for step in steps {
            let kind = step
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or("(missing)");
            let (before, after) = match kind {
                // It moves offsets, which nobody asks for here.
                "ByteLevel" => (Vec::new(), Vec::new()),
                "TemplateProcessing" => self.template(step)?,
                "RobertaProcessing" | "BertProcessing" => (
                    vec![self.named(step, "cls")?],
                    vec![self.named(step, "sep")?],
                ),
                _ => {
                    let supported = "ByteLevel, TemplateProcessing, RobertaProcessing, BertProcessing, and sequences of them";
                    return Err(self.unsupported("post_processor", kind, supported));
                }
            };
            // A later step goes around what the earlier ones made.
            around.before.splice(0..0, before);
            around.after.extend(after);
        }
        Ok(around)
    }

    fn template(&self, step: &Value) -> Result<(Vec<u32>, Vec<u32>), TextError> {
        const FIELD: &str = "post_processor.single";
        let pieces = step.get("single").and_then(Value::as_array);
        let pieces =
            pieces.ok_or_else(|| self.broken(FIELD, "is missing or is no list".to_owned()))?;
        let is_text =
            |piece: &Value| piece.pointer("/Sequence/id").and_then(Value::as_str) == Some("A");
        let mut halves = pieces.split(is_text);
        let (Some(before), Some(after), None) = (halves.next(), halves.next(), halves.next())
        else {
            return Err(self.broken(FIELD, "does not hold the text `A` once".to_owned()));
        };
        Ok((
            self.template_tokens(step, before)?,
            self.template_tokens(step, after)?,
        ))
    }

    fn template_tokens(&self, step: &Value, pieces: &[Value]) -> Result<Vec<u32>, TextError> {
        let mut tokens = Vec::new();
        for piece in pieces {
            let name = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
            let described = name.and_then(|name| {
                step.get("special_tokens")?
                    .get(name)?
                    .get("ids")?
                    .as_array()
            });
            let ids = described.ok_or_else(|| {
                let why = format!(
                    "has `{piece}`, expected a special token that `special_tokens` describes"
                );
                self.broken("post_processor.single", why)
            })?;
            for id in ids {
                tokens.push(self.id(
                    "post_processor.special_tokens",
                    name.unwrap_or_default(),
                    Some(id),
                )?);
            }
        }
        Ok(tokens)
    }

    /// A token that is given as its spelling and its id.
    fn named(&self, step: &Value, key: &str) -> Result<u32, TextError> {
        let pair = step.get(key);
        let spelling = pair
            .and_then(|pair| pair.get(0))
            .and_then(Value::as_str)
            .unwrap_or_default();
        self.id(
            &format!("post_processor.{key}"),
            spelling,
            pair.and_then(|pair| pair.get(1)),
        )
    }
}
