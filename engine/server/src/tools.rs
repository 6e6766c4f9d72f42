//! Calls of functions in what a model says.
//!
//! Models write calls as JSON objects with a name and arguments: between `<tool_call>` and `</tool_call>` (Hermes, Qwen), or as the whole answer
//! (Llama 3, which calls arguments parameters, and may begin with `<|python_tag|>`).

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const PYTHON: &str = "<|python_tag|>";

/// A function that a model may call.
#[derive(Clone, Debug, Deserialize)]
pub struct Tool {
    #[serde(rename = "type")]
    pub kind: String,
    pub function: Function,
}

/// What is said of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Function {
    pub name: String,
    pub description: Option<String>,
    pub parameters: Option<Value>,
}

/// Which functions may, must or must not be called.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// None.
    Nothing,
    /// One of these.
    Required(Vec<String>),
}

impl ToolChoice {
    /// What a request's `tool_choice` says of its tools.
    pub fn of(choice: Option<&Value>, tools: &[Tool]) -> Result<Self, ApiError> {
        let wrong = |why: &str| Err(ApiError::field("tool_choice", why));
        for tool in tools {
            if tool.kind != "function" {
                let why = format!("tools of type {} are not supported", tool.kind);
                return Err(ApiError::field("tools", why));
            }
        }
        let names = || {
            tools
                .iter()
                .map(|tool| tool.function.name.clone())
                .collect()
        };
        match choice {
            None | Some(Value::Null) if tools.is_empty() => Ok(ToolChoice::Nothing),
            None | Some(Value::Null) => Ok(ToolChoice::Auto),
            Some(Value::String(word)) => match word.as_str() {
                "none" => Ok(ToolChoice::Nothing),
                "auto" if tools.is_empty() => Ok(ToolChoice::Nothing),
                "auto" => Ok(ToolChoice::Auto),
                "required" if tools.is_empty() => wrong("there are no tools to call"),
                "required" => Ok(ToolChoice::Required(names())),
                _ => wrong("expected none, auto, required or a function"),
            },
            Some(object) => {
                // The responses interface has the name beside the type.
                let name = object["function"]["name"]
                    .as_str()
                    .or(object["name"].as_str());
                match name {
                    Some(name) if tools.iter().any(|tool| tool.function.name == name) => {
                        Ok(ToolChoice::Required(vec![name.to_owned()]))
                    }
                    Some(name) => wrong(&format!("there is no tool {name}")),
                    None => wrong("expected none, auto, required or a function"),
                }
            }
        }
    }
}

/// The schema of a call of one of some functions.
pub fn call_schema(tools: &[Tool], names: &[String]) -> Value {
    let calls: Vec<Value> = tools
        .iter()
        .filter(|tool| names.contains(&tool.function.name))
        .map(|tool| {
            let parameters = tool.function.parameters.clone();
            json!({
                "type": "object",
                "properties": {
                    "name": {"const": tool.function.name},
                    "arguments": parameters.unwrap_or_else(|| json!({"type": "object"})),
                },
                "required": ["name", "arguments"],
                "additionalProperties": false,
            })
        })
        .collect();
    match <[Value; 1]>::try_from(calls) {
        Ok([call]) => call,
        Err(calls) => json!({"anyOf": calls}),
    }
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    Call(Call),
}

/// Tells calls from text while an answer comes.
#[derive(Debug, Default)]
pub struct ToolParser {
    held: String,
    /// Whether something was said before.
    spoken: bool,
}

impl ToolParser {
    /// Takes more of an answer; returns what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        loop {
            if self.is_object() {
                // It is a call once it is whole, which only its end tells.
                return parts;
            }
            match self.held.find(OPEN) {
                Some(at) => {
                    let Some(length) = self.held[at..].find(CLOSE) else {
                        let call = self.held.split_off(at);
                        self.say(&mut parts);
                        self.held = call;
                        return parts;
                    };
                    let end = at + length;
                    let rest = self.held.split_off(end + CLOSE.len());
                    let inner = self.held[at + OPEN.len()..end].to_owned();
                    match call_of(&inner) {
                        Some(call) => {
                            self.held.truncate(at);
                            self.say(&mut parts);
                            parts.push(Part::Call(call));
                        }
                        // It only looks like one.
                        None => self.say(&mut parts),
                    }
                    self.held = rest;
                }
                None => {
                    let kept = self.held.split_off(self.held.len() - begun(&self.held));
                    self.say(&mut parts);
                    self.held = kept;
                    return parts;
                }
            }
        }
    }

    /// The answer is over.
    pub fn finish(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        let inner = held.trim_start();
        let inner = inner.strip_prefix(PYTHON).unwrap_or(inner);
        let inner = inner.strip_prefix(OPEN).unwrap_or(inner);
        let mut parts = Vec::new();
        match call_of(inner) {
            Some(call) => parts.push(Part::Call(call)),
            None => {
                self.held = held;
                self.say(&mut parts);
            }
        }
        parts
    }

    /// Whether all that was said so far may be an object.
    fn is_object(&self) -> bool {
        let text = self.held.trim_start();
        !self.spoken && (text.starts_with('{') || text.starts_with(PYTHON))
    }

    /// Says what is held.
    fn say(&mut self, parts: &mut Vec<Part>) {
        let text = std::mem::take(&mut self.held);
        // Blanks between calls are no text.
        if text.trim().is_empty() && (!self.spoken || text.is_empty()) {
            return;
        }
        self.spoken = true;
        parts.push(Part::Text(text));
    }
}

/// How much of a text's end may be the beginning of a call.
fn begun(text: &str) -> usize {
    let starts = [OPEN, PYTHON];
    let most = starts.iter().map(|start| start.len()).max().unwrap_or(0);
    (1..most.min(text.len() + 1))
        .rev()
        .filter(|&length| text.is_char_boundary(text.len() - length))
        .find(|&length| {
            let end = &text[text.len() - length..];
            starts.iter().any(|start| start.starts_with(end))
        })
        .unwrap_or(0)
}

/// The call that a text is.
fn call_of(text: &str) -> Option<Call> {
    let object: Value = serde_json::from_str(text.trim()).ok()?;
    // Some models name the function's object.
    let object = match object.get("function") {
        Some(function) if function.is_object() => function.clone(),
        _ => object,
    };
    let name = object.get("name")?.as_str()?.to_owned();
    let arguments = object
        .get("arguments")
        .or_else(|| object.get("parameters"))?;
    let arguments = match arguments {
        Value::String(text) => text.clone(),
        object @ Value::Object(_) => object.to_string(),
        _ => return None,
    };
    Some(Call { name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, length: usize) -> Vec<Part> {
        let mut parser = ToolParser::default();
        let mut parts = Vec::new();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(length) {
            parts.extend(parser.push(&piece.iter().collect::<String>()));
        }
        parts.extend(parser.finish());
        // Texts that follow each other are one.
        let mut joined: Vec<Part> = Vec::new();
        for part in parts {
            match (joined.last_mut(), part) {
                (Some(Part::Text(text)), Part::Text(more)) => text.push_str(&more),
                (_, part) => joined.push(part),
            }
        }
        joined
    }

    fn call(name: &str, arguments: &str) -> Part {
        Part::Call(Call {
            name: name.into(),
            arguments: arguments.into(),
        })
    }

    #[test]
    fn calls_are_found_however_they_come() {
        let text = |text: &str| Part::Text(text.into());
        let cases = [
            (
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"<x>\"}}\n</tool_call>",
                vec![call("f", r#"{"a":"<x>"}"#)],
            ),
            (
                "Let me see. <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
                vec![
                    text("Let me see. "),
                    call("f", "{}"),
                    text("\n"),
                    call("g", "{}"),
                ],
            ),
            (
                r#"{"name": "f", "parameters": {"a": 1}}"#,
                vec![call("f", r#"{"a":1}"#)],
            ),
            (
                r#"<|python_tag|>{"name": "f", "parameters": {}}"#,
                vec![call("f", "{}")],
            ),
            (r#"{"a": 1}"#, vec![text(r#"{"a": 1}"#)]),
            ("a < b <tool", vec![text("a < b <tool")]),
            (
                "<tool_call>oh</tool_call>",
                vec![text("<tool_call>oh</tool_call>")],
            ),
            (
                "<tool_call>{\"name\":\"f\",\"arguments\":{}}",
                vec![call("f", "{}")],
            ),
            ("é<é<tool_call>", vec![text("é<é<tool_call>")]),
            ("", vec![]),
        ];
        for (said, expected) in cases {
            for length in [1, 2, 7, 100] {
                assert_eq!(
                    parse(said, length),
                    expected,
                    "{said} in pieces of {length}"
                );
            }
        }
    }

    #[test]
    fn choices_name_tools_that_there_are() {
        let tools: Vec<Tool> = serde_json::from_value(json!([
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        ]))
        .expect("it is a tool");
        let of = |choice: Value| ToolChoice::of(Some(&choice), &tools);
        assert_eq!(ToolChoice::of(None, &tools), Ok(ToolChoice::Auto));
        assert_eq!(ToolChoice::of(None, &[]), Ok(ToolChoice::Nothing));
        let named = json!({"type": "function", "function": {"name": "f"}});
        assert_eq!(of(named), Ok(ToolChoice::Required(vec!["f".into()])));
        assert_eq!(of(json!("none")), Ok(ToolChoice::Nothing));
        assert!(of(json!({"type": "function", "function": {"name": "g"}})).is_err());
        assert!(of(json!("maybe")).is_err());
        let schema = call_schema(&tools, &["f".into()]);
        assert_eq!(schema["properties"]["name"]["const"], "f");
    }
}
