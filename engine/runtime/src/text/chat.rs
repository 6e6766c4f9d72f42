//! Chat templates: conversations written down the way a model learnt them.

mod clock;
mod json;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::error::TextError;

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What is said.
    pub content: String,
    /// More fields that a template may read, such as `tool_calls`; one of the name `role` or `content` replaces that.
    pub extra: Map<String, Json>,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message {
            role: role.into(),
            content: content.into(),
            extra: Map::new(),
        }
    }

    /// How the model is to behave.
    pub fn system(content: String) -> Self {
        Message::new("system", content)
    }

    /// What the user says.
    pub fn user(content: String) -> Self {
        Message::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: String) -> Self {
        Message::new("assistant", content)
    }
}

/// What a template is told beside the messages.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// Whether the text ends where the model is to answer; true by default.
    pub add_generation_prompt: bool,
    /// Whether a model that can think before it answers is to do so; `None` leaves it to the template.
    pub enable_thinking: Option<bool>,
    /// Descriptions of the functions that the model may call: a list of JSON schemas.
    pub tools: Option<Json>,
    /// More variables; they replace any others of their names, save `messages`.
    pub extra: Map<String, Json>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        ChatOptions {
            add_generation_prompt: true,
            enable_thinking: None,
            tools: None,
            extra: Map::new(),
        }
    }
}

/// A model's chat template: Jinja as Hugging Face renders it.
///
/// Templates come from strangers. They reach nothing but the messages and options, and a rendering ends after a bounded amount of work.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
    thinking: bool,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("ChatTemplate");
        debug
            .field("bos_token", &self.bos_token)
            .field("eos_token", &self.eos_token)
            .field("thinking", &self.thinking);
        debug.finish_non_exhaustive()
    }
}

const NAME: &str = "chat";
/// About this many instructions and 64 times as many bytes: some seconds, and far more than conversations of a million tokens need.
const FUEL: u64 = 20_000_000;
const LONGEST_SOURCE: usize = 1 << 20;
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

impl ChatTemplate {
    /// Parses a template. The two tokens are what it reads as `bos_token` and `eos_token`; empty where the model has none.
    ///
    /// # Errors
    /// The template is not valid, or longer than a mebibyte.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, TextError> {
        if source.len() > LONGEST_SOURCE {
            let why = format!(
                "is {} bytes long, expected at most {LONGEST_SOURCE}",
                source.len()
            );
            return Err(TextError::Template { line: None, why });
        }
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        let mut environment = Environment::new();
        environment.set_syntax(syntax.map_err(|error| fault(&error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| clock::now(format));
        environment.add_filter("tojson", tojson);
        environment
            .add_template_owned(NAME, source::without_marks(source))
            .map_err(|error| fault(&error))?;
        let thinking = source.contains("enable_thinking");
        Ok(ChatTemplate {
            environment,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
            thinking,
        })
    }

    /// ChatML, for a caller who knows that a model without a template was trained on it.
    ///
    /// # Errors
    /// None: the template is valid, as a test shows.
    pub fn chatml() -> Result<Self, TextError> {
        ChatTemplate::new(CHATML, "", "<|im_end|>")
    }

    /// Whether the template reads [`ChatOptions::enable_thinking`].
    pub fn knows_thinking(&self) -> bool {
        self.thinking
    }

    /// Writes a conversation down. Turn the text into tokens with [`Tokenizer::encode_rendered`](super::Tokenizer::encode_rendered).
    ///
    /// # Errors
    /// The template refuses the messages, fails on them, or works for too long.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, TextError> {
        let mut variables = Map::new();
        for (name, token) in [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
        ] {
            variables.insert(name.to_owned(), Json::from(token.as_str()));
        }
        variables.insert(
            "add_generation_prompt".to_owned(),
            Json::Bool(options.add_generation_prompt),
        );
        variables.insert(
            "tools".to_owned(),
            options.tools.clone().unwrap_or_default(),
        );
        variables.insert("documents".to_owned(), Json::Null);
        if let Some(think) = options.enable_thinking {
            variables.insert("enable_thinking".to_owned(), Json::Bool(think));
        }
        variables.extend(options.extra.clone());
        let message = |message: &Message| {
            let mut fields = Map::new();
            fields.insert("role".to_owned(), Json::from(message.role.as_str()));
            fields.insert("content".to_owned(), Json::from(message.content.as_str()));
            fields.extend(message.extra.clone());
            Json::Object(fields)
        };
        variables.insert(
            "messages".to_owned(),
            messages.iter().map(message).collect(),
        );
        let variables = json::to_value(&Json::Object(variables)).map_err(|error| fault(&error))?;
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| fault(&error))?;
        template.render(variables).map_err(|error| fault(&error))
    }
}

/// What a template said to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: Value) -> Result<Value, Error> {
    let raised = Raised(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(raised))
}

/// As Hugging Face's filter: Python's `json.dumps`, without escapes for HTML.
fn tojson(value: &Value, ascii: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    if ascii.len() > 1 {
        return Err(Error::new(
            ErrorKind::TooManyArguments,
            "tojson: name the options after the first",
        ));
    }
    let ascii_option: Option<bool> = options.get("ensure_ascii")?;
    let ascii = ascii
        .first()
        .map(Value::is_true)
        .or(ascii_option)
        .unwrap_or(false);
    let style = json::Style::new(
        ascii,
        options.get("indent")?,
        options.get("separators")?,
        options.get("sort_keys")?,
    )?;
    options.assert_all_used()?;
    style.write(value)
}

fn fault(error: &Error) -> TextError {
    let mut cause: &dyn std::error::Error = error;
    let mut line = error.line();
    loop {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TextError::Refused {
                message: message.clone(),
                line,
            };
        }
        // The innermost place is where it happened; the outer ones are how it was reached.
        line = cause.downcast_ref::<Error>().and_then(Error::line).or(line);
        match cause.source() {
            Some(deeper) => cause = deeper,
            None => break,
        }
    }
    let why = match error.kind() {
        ErrorKind::OutOfFuel => "works for too long".to_owned(),
        kind => error
            .detail()
            .map_or(kind.to_string(), |detail| format!("{kind}: {detail}")),
    };
    TextError::Template { line, why }
}
