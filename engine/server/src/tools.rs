//! Calls of functions in what a model says.
//!
//! Models write calls as JSON objects with a name and arguments: between `<tool_call>` and `</tool_call>` (Hermes, Qwen), or as the whole answer
//! (Llama 3, which calls arguments parameters, and may begin with `<|python_tag|>`).

use std::sync::Arc;

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    /// A call of this function begins.
    Name(String),
    /// More of its arguments.
    Arguments(String),
    /// It is over.
    End,
}

/// Tells calls from text while an answer comes. Arguments are told as they come, once a call names a function that there is.
#[derive(Debug)]
pub struct ToolParser {
    names: Arc<[String]>,
    /// Whether calls after the first are left out.
    one_call: bool,
    calls: usize,
    held: String,
    /// Whether something was said before.
    spoken: bool,
    state: State,
}

/// Where in an answer a parser is.
#[derive(Debug)]
enum State {
    /// Outside of calls, or before what names a function.
    Outside,
    /// In a call's arguments; whether it is between [`OPEN`] and [`CLOSE`].
    Arguments(Nesting, bool),
    /// After them, before the call's last brace.
    Closing(bool),
    /// Before [`CLOSE`].
    Tag,
}

/// Where in a JSON object a text ends.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Nesting {
    /// How much of a text belongs to the object, and whether that ends it.
    fn take(&mut self, text: &str) -> (usize, bool) {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return (at + 1, true);
                    }
                }
                _ => {}
            }
        }
        (text.len(), false)
    }
}

impl ToolParser {
    /// A parser of calls of these functions; of the first only, where asked.
    pub fn new(names: Arc<[String]>, one_call: bool) -> Self {
        ToolParser {
            names,
            one_call,
            calls: 0,
            held: String::new(),
            spoken: false,
            state: State::Outside,
        }
    }

    /// Takes more of an answer; returns what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.advance(&mut parts) {}
        parts
    }

    /// Takes what it can of what is held; returns whether there may be more.
    fn advance(&mut self, parts: &mut Vec<Part>) -> bool {
        match &mut self.state {
            State::Arguments(nesting, tagged) => {
                let (taken, ended) = nesting.take(&self.held);
                let tagged = *tagged;
                let rest = self.held.split_off(taken);
                let more = std::mem::replace(&mut self.held, rest);
                if !more.is_empty() {
                    self.tell(parts, Part::Arguments(more));
                }
                if ended {
                    self.tell(parts, Part::End);
                    self.state = State::Closing(tagged);
                }
                ended
            }
            State::Closing(tagged) => {
                let text = self.held.trim_start();
                if text.is_empty() {
                    return false;
                }
                let after = text.strip_prefix('}');
                self.state = match after {
                    Some(_) if *tagged => State::Tag,
                    _ => State::Outside,
                };
                self.held = after.unwrap_or(text).to_owned();
                true
            }
            State::Tag => {
                let text = self.held.trim_start();
                if CLOSE.starts_with(text) && text != CLOSE {
                    return false;
                }
                // What is no end is text.
                self.held = text.strip_prefix(CLOSE).unwrap_or(text).to_owned();
                self.state = State::Outside;
                true
            }
            State::Outside => self.look(parts),
        }
    }

    /// Looks for a call in what is held; returns whether there may be more.
    fn look(&mut self, parts: &mut Vec<Part>) -> bool {
        if self.is_object() {
            // Without a known name before its arguments it is a call once it is whole, which only its end tells.
            let inner = self.held.trim_start();
            let inner = inner.strip_prefix(PYTHON).unwrap_or(inner);
            let begun = self.header(inner);
            return begun.is_some_and(|(name, rest)| self.begin(name, rest, false, parts));
        }
        let Some(at) = self.held.find(OPEN) else {
            let kept = self.held.split_off(self.held.len() - begun(&self.held));
            self.say(parts);
            self.held = kept;
            return false;
        };
        let inside = at + OPEN.len();
        if let Some((name, rest)) = self.header(&self.held[inside..]) {
            self.held.truncate(at);
            self.say(parts);
            return self.begin(name, rest, true, parts);
        }
        let Some(length) = self.held[at..].find(CLOSE) else {
            let call = self.held.split_off(at);
            self.say(parts);
            self.held = call;
            return false;
        };
        let end = at + length;
        let rest = self.held.split_off(end + CLOSE.len());
        match call_of(&self.held[inside..end]) {
            Some(call) => {
                self.held.truncate(at);
                self.say(parts);
                self.tell_whole(parts, call);
            }
            // It only looks like one.
            None => self.say(parts),
        }
        self.held = rest;
        true
    }

    /// The name of a function that there is and the arguments' beginning, where a text has both in this order.
    fn header(&self, text: &str) -> Option<(String, String)> {
        let key = |text: &'_ str, key: &str| -> Option<usize> {
            let inner = text.trim_start().strip_prefix('"')?.strip_prefix(key)?;
            let value = inner.strip_prefix('"')?.trim_start().strip_prefix(':')?;
            Some(text.len() - value.trim_start().len())
        };
        let object = text.trim_start().strip_prefix('{')?;
        let named = object[key(object, "name")?..].strip_prefix('"')?;
        let (name, rest) = named.split_once('"')?;
        let rest = rest.trim_start().strip_prefix(',')?;
        let at = key(rest, "arguments").or_else(|| key(rest, "parameters"))?;
        let is_known = self.names.iter().any(|known| known == name);
        (is_known && rest[at..].starts_with('{')).then(|| (name.to_owned(), rest[at..].to_owned()))
    }

    /// Begins to tell a call.
    fn begin(&mut self, name: String, rest: String, tagged: bool, parts: &mut Vec<Part>) -> bool {
        self.held = rest;
        self.calls += 1;
        self.tell(parts, Part::Name(name));
        self.state = State::Arguments(Nesting::default(), tagged);
        true
    }

    /// Tells a call that is whole.
    fn tell_whole(&mut self, parts: &mut Vec<Part>, call: Call) {
        self.calls += 1;
        for part in [
            Part::Name(call.name),
            Part::Arguments(call.arguments),
            Part::End,
        ] {
            self.tell(parts, part);
        }
    }

    /// Tells a part of a call, unless that is left out.
    fn tell(&self, parts: &mut Vec<Part>, part: Part) {
        if !self.one_call || self.calls <= 1 {
            parts.push(part);
        }
    }

    /// The answer is over.
    pub fn finish(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        let mut parts = Vec::new();
        match std::mem::replace(&mut self.state, State::Outside) {
            State::Arguments(..) => self.tell(&mut parts, Part::End),
            State::Closing(_) | State::Tag => {}
            State::Outside => {
                let inner = held.trim_start();
                let inner = inner.strip_prefix(PYTHON).unwrap_or(inner);
                let inner = inner.strip_prefix(OPEN).unwrap_or(inner);
                match call_of(inner) {
                    Some(call) => self.tell_whole(&mut parts, call),
                    None => {
                        self.held = held;
                        self.say(&mut parts);
                    }
                }
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

    fn parser(one_call: bool) -> ToolParser {
        ToolParser::new(["f".to_owned(), "g".to_owned()].into(), one_call)
    }

    /// Texts and calls of an answer that comes in pieces.
    fn parse(mut parser: ToolParser, text: &str, length: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(length) {
            parts.extend(parser.push(&piece.iter().collect::<String>()));
        }
        parts.extend(parser.finish());
        // Those that follow each other are one.
        let mut joined: Vec<Part> = Vec::new();
        for part in parts {
            match (joined.last_mut(), part) {
                (Some(Part::Text(text)), Part::Text(more))
                | (Some(Part::Arguments(text)), Part::Arguments(more)) => text.push_str(&more),
                (_, part) => joined.push(part),
            }
        }
        joined
    }

    fn text(text: &str) -> Vec<Part> {
        vec![Part::Text(text.into())]
    }

    fn call(name: &str, arguments: &str) -> Vec<Part> {
        vec![
            Part::Name(name.into()),
            Part::Arguments(arguments.into()),
            Part::End,
        ]
    }

    #[test]
    fn calls_are_found_however_they_come() {
        let cases = [
            (
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"<x>\"}}\n</tool_call>",
                call("f", r#"{"a": "<x>"}"#),
            ),
            (
                "Let me see. <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
                [
                    text("Let me see. "),
                    call("f", "{}"),
                    text("\n"),
                    call("g", "{}"),
                ]
                .concat(),
            ),
            (
                r#"{"name": "f", "parameters": {"a": [{"b}": "\"}"}]}} "#,
                call("f", r#"{"a": [{"b}": "\"}"}]}"#),
            ),
            (
                r#"<|python_tag|>{"name": "f", "parameters": {}}"#,
                call("f", "{}"),
            ),
            // A name that there is not, another order, and another form.
            (
                r#"<tool_call>{"name": "h", "arguments": {"a": 1}}</tool_call>"#,
                call("h", r#"{"a":1}"#),
            ),
            (r#"{"arguments": {}, "name": "f"}"#, call("f", "{}")),
            (
                r#"{"type": "function", "function": {"name": "f", "arguments": "{}"}}"#,
                call("f", "{}"),
            ),
            (r#"{"a": 1}"#, text(r#"{"a": 1}"#)),
            ("a < b <tool", text("a < b <tool")),
            (
                "<tool_call>oh</tool_call>",
                text("<tool_call>oh</tool_call>"),
            ),
            (
                "<tool_call>{\"name\":\"f\",\"arguments\":{}}",
                call("f", "{}"),
            ),
            // Cut short, and followed by something else.
            (
                r#"<tool_call>{"name":"f","arguments":{"a": "b"#,
                call("f", r#"{"a": "b"#),
            ),
            (
                r#"<tool_call>{"name":"f","arguments":{}} and so on"#,
                [call("f", "{}"), text("and so on")].concat(),
            ),
            ("é<é<tool_call>", text("é<é<tool_call>")),
            ("", vec![]),
        ];
        for (said, expected) in cases {
            for length in [1, 2, 7, 100] {
                assert_eq!(
                    parse(parser(false), said, length),
                    expected,
                    "{said} in pieces of {length}"
                );
            }
        }
    }

    #[test]
    fn arguments_are_told_as_they_come() {
        let mut parser = parser(false);
        assert_eq!(parser.push(r#"<tool_call>{"name": "f", "argum"#), []);
        let begun = parser.push(r#"ents": {"a"#);
        assert_eq!(
            begun,
            [Part::Name("f".into()), Part::Arguments(r#"{"a"#.into())]
        );
        assert_eq!(parser.push(r#"": 1"#), [Part::Arguments(r#"": 1"#.into())]);
        let ended = parser.push("}}\n</tool_call>");
        assert_eq!(ended, [Part::Arguments("}".into()), Part::End]);
        assert_eq!(parser.finish(), []);
    }

    #[test]
    fn calls_after_the_first_are_left_out_where_asked() {
        let said = r#"<tool_call>{"name":"f","arguments":{}}</tool_call><tool_call>{"name":"g","arguments":{}}</tool_call>"#;
        assert_eq!(parse(parser(true), said, 3), call("f", "{}"));
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
