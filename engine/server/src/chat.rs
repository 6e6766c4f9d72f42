//! Messages as tokens.

use longwave_runtime::text::{ChatOptions, Message};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::Subject;
use crate::error::ApiError;

/// A message as clients write it.
#[derive(Clone, Debug, Deserialize)]
pub struct ApiMessage {
    pub role: String,
    #[serde(default)]
    pub content: Value,
    /// `tool_calls`, `tool_call_id`, `name` and whatever else a template may read.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ApiMessage {
    /// The message as templates read it.
    fn into_message(self, index: usize) -> Result<Message, ApiError> {
        let field = |what: &str| format!("messages[{index}].{what}");
        let role = match self.role.as_str() {
            // What newer clients call the system.
            "developer" => "system".to_owned(),
            "system" | "user" | "assistant" | "tool" => self.role,
            other => {
                let why = format!("{other:?} is none of system, developer, user, assistant, tool");
                return Err(ApiError::field(&field("role"), why));
            }
        };
        let content = match self.content {
            Value::Null if self.extra.contains_key("tool_calls") => String::new(),
            content => text_of(&content).map_err(|why| ApiError::field(&field("content"), why))?,
        };
        let mut extra = self.extra;
        if let Some(calls) = extra.get_mut("tool_calls") {
            objects(calls);
        }
        Ok(Message {
            role,
            content,
            extra,
        })
    }
}

/// A content's text: a string, or the texts of its parts.
pub fn text_of(content: &Value) -> Result<String, String> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match part["type"].as_str() {
                Some("text" | "input_text" | "output_text") => {
                    let text = part["text"].as_str().map(str::to_owned);
                    text.ok_or_else(|| "a part of type text has no text".to_owned())
                }
                Some(other) => Err(format!("parts of type {other} are not supported")),
                None => Err("a part has no type".to_owned()),
            })
            .collect(),
        _ => Err("expected a string or a list of parts".into()),
    }
}

/// Templates read a call's arguments as an object, clients send them as its JSON.
fn objects(calls: &mut Value) {
    for call in calls.as_array_mut().into_iter().flatten() {
        let arguments = &mut call["function"]["arguments"];
        if let Some(object) = arguments
            .as_str()
            .and_then(|text| serde_json::from_str(text).ok())
        {
            *arguments = object;
        }
    }
}

/// A conversation as tokens, up to where the model is to answer.
///
/// # Errors
/// The model has no template, it refuses the messages, or a message is not what it should be.
pub fn tokens(
    subject: &Subject,
    messages: Vec<ApiMessage>,
    options: &ChatOptions,
) -> Result<Vec<u32>, ApiError> {
    let Some(template) = &subject.template else {
        let why = format!(
            "{} has no chat template: /v1/completions continues a text without one",
            subject.name
        );
        return Err(ApiError::invalid(why));
    };
    if messages.is_empty() {
        return Err(ApiError::field("messages", "expected at least one message"));
    }
    let messages: Vec<Message> = messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| message.into_message(index))
        .collect::<Result<_, _>>()?;
    let failed = |error| ApiError::from(longwave_runtime::Error::Text(error));
    let text = template.render(&messages, options).map_err(failed)?;
    subject.tokenizer.encode_rendered(&text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(value: Value) -> Result<Message, ApiError> {
        let message: ApiMessage = serde_json::from_value(value).expect("it has a role");
        message.into_message(3)
    }

    #[test]
    fn contents_are_texts_or_their_parts() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let found = message(json!({"role": "developer", "content": parts}));
        let found = found.expect("it is a text");
        assert_eq!(
            (found.role.as_str(), found.content.as_str()),
            ("system", "ab")
        );
        for (wrong, what) in [
            (json!({"role": "user"}), "messages[3].content"),
            (json!({"role": "king", "content": "x"}), "messages[3].role"),
            (
                json!({"role": "user", "content": [{"type": "image_url"}]}),
                "image_url are not supported",
            ),
        ] {
            let error = message(wrong).expect_err("it is wrong");
            assert!(error.message.contains(what), "{}", error.message);
        }
    }

    #[test]
    fn templates_read_the_arguments_of_calls() {
        let calls = json!([{"function": {"name": "f", "arguments": "{\"a\": 1}"}}]);
        let found = message(json!({"role": "assistant", "content": null, "tool_calls": calls}));
        let found = found.expect("it is a call");
        assert_eq!(
            found.extra["tool_calls"][0]["function"]["arguments"]["a"],
            1
        );
    }
}
