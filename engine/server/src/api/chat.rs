//! `/v1/chat/completions`: a conversation goes on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use longwave_runtime::schedule::Usage;
use longwave_runtime::text::ChatOptions;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Narrator, Replies, collect, data, finish_word, stream, usage};
use super::body::{Body, id};
use super::completions::token_text;
use super::params::Params;
use super::{OfferInfo, Shared, now};
use crate::chat::{ApiMessage, tokens};
use crate::error::ApiError;
use crate::text::Spoken;
use crate::tools::{Call, Part, Tool, ToolChoice, ToolParser, call_schema};
use crate::worker::{Finish, Reply};

#[derive(Debug, Deserialize)]
pub struct Chat {
    messages: Vec<ApiMessage>,
    #[serde(default)]
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    #[serde(default)]
    tools: Option<Vec<Tool>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<Value>,
    #[serde(default)]
    chat_template_kwargs: Option<Map<String, Value>>,
    store: Option<bool>,
    #[serde(flatten)]
    params: Params,
}

pub async fn create(
    Extract(shared): super::State,
    Body(request): Body<Chat>,
) -> Result<Response, ApiError> {
    let params = &request.params;
    shared.check_model(params.model.as_deref())?;
    params.check()?;
    if request.store == Some(true) {
        return Err(ApiError::field("store", "nothing is stored here"));
    }
    let offer = params.offer(&shared)?;
    let tools = request.tools.unwrap_or_default();
    let choice = ToolChoice::of(request.tool_choice.as_ref(), &tools)?;
    let listed = match choice {
        ToolChoice::Nothing => None,
        _ => Some(tool_list(&tools)),
    };
    let options = ChatOptions {
        tools: listed,
        extra: request.chat_template_kwargs.unwrap_or_default(),
        ..ChatOptions::default()
    };
    if shared.config.log_prompts {
        tracing::info!(messages = ?request.messages, "prompt");
    }
    let prompt = tokens(&shared.subject, request.messages, &options)?;
    let schema = match &choice {
        ToolChoice::Required(names) => Some(call_schema(&tools, names)),
        _ => params.schema(request.response_format.as_ref())?,
    };
    let constraint = || {
        let made = schema.clone().map(|schema| shared.grammars.schema(schema));
        made.transpose()
            .map_err(|why| ApiError::field("response_format", why))
    };
    let logprobs = match (request.logprobs, request.top_logprobs) {
        (Some(true), most) => Some(most.unwrap_or(0)),
        (_, Some(_)) => return Err(ApiError::field("top_logprobs", "logprobs must be true")),
        _ => None,
    };
    let requests = params.requests(&shared, &prompt, None, logprobs, &constraint)?;
    let count = requests.len();
    let replies = Replies::of(&shared, offer, requests, params.stops()).await?;
    let form = Form {
        id: id("chatcmpl"),
        created: now(),
        shared: Arc::clone(&shared),
        logprobs: logprobs.is_some(),
        // Where functions may be called, what looks like a call is one.
        callable: callable(&choice, &tools),
        one_call: request.parallel_tool_calls == Some(false),
        offer: shared.offers[offer].clone(),
    };
    if params.streams() {
        let include = params.stream_options.unwrap_or_default().include_usage;
        let voices = (0..count).map(|_| Voice::new(&form)).collect();
        return Ok(stream(
            replies,
            Stream {
                form,
                include,
                voices,
            },
        ));
    }
    let answers = collect(replies, count).await?;
    let choices: Vec<Value> = answers
        .iter()
        .enumerate()
        .map(|(index, answer)| form.choice(index, answer))
        .collect();
    let usages: Vec<Usage> = answers.iter().map(|answer| answer.usage).collect();
    let mut object = form.object("chat.completion", choices);
    object["usage"] = usage(&usages, &form.offer);
    Ok(Json(object).into_response())
}

/// Tools as templates read them.
pub fn tool_list(tools: &[Tool]) -> Value {
    let list = tools.iter().map(|tool| {
        let function = &tool.function;
        let nothing = || json!({"type": "object", "properties": {}});
        json!({"type": "function", "function": {
            "name": function.name,
            "description": function.description.clone().unwrap_or_default(),
            "parameters": function.parameters.clone().unwrap_or_else(nothing),
        }})
    });
    list.collect()
}

/// A call as clients read it.
fn call(call: &Call) -> Value {
    json!({
        "id": id("call"),
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    })
}

/// How answers are written.
struct Form {
    id: String,
    created: u64,
    shared: Arc<Shared>,
    logprobs: bool,
    callable: Option<Arc<[String]>>,
    one_call: bool,
    offer: OfferInfo,
}

impl Form {
    fn object(&self, kind: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.shared.subject.name,
            "choices": choices,
        })
    }

    fn choice(&self, index: usize, answer: &Answer) -> Value {
        let (text, calls) = said(&answer.text, self.callable.as_ref(), self.one_call);
        let finish = match (calls.is_empty(), answer.finish) {
            (false, Some(Finish::Stop)) => Some("tool_calls"),
            (_, finish) => finish.map(finish_word),
        };
        let content = (calls.is_empty() || !text.is_empty()).then_some(text);
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !calls.is_empty() {
            message["tool_calls"] = calls.iter().map(call).collect();
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": self.logprobs.then(|| self.listed(&answer.tokens)),
            "finish_reason": finish,
        })
    }

    fn listed(&self, tokens: &[Spoken]) -> Value {
        json!({"content": logprobs(&self.shared, tokens), "refusal": null})
    }
}

/// Log probabilities of tokens, of those that have some.
pub fn logprobs(shared: &Shared, tokens: &[Spoken]) -> Vec<Value> {
    let one = |token: u32, logprob: f32| {
        let bytes = shared.subject.tokenizer.token_bytes(token);
        json!({
            "token": token_text(shared, token),
            "logprob": logprob,
            "bytes": bytes.unwrap_or_default(),
        })
    };
    let some = tokens.iter().filter_map(|spoken| {
        let logprobs = spoken.logprobs.as_ref()?;
        let mut object = one(spoken.token, logprobs.chosen);
        let top = logprobs.top.iter();
        let top = top.map(|(token, logprob)| one(*token, *logprob));
        object["top_logprobs"] = top.collect();
        Some(object)
    });
    some.collect()
}

/// The functions that an answer may call; `None` where it may call none.
pub fn callable(choice: &ToolChoice, tools: &[Tool]) -> Option<Arc<[String]>> {
    let names = tools.iter().map(|tool| tool.function.name.clone());
    (*choice != ToolChoice::Nothing).then(|| names.collect())
}

/// What an answer says, and which functions it calls.
pub fn said(text: &str, callable: Option<&Arc<[String]>>, one_call: bool) -> (String, Vec<Call>) {
    let Some(names) = callable else {
        return (text.to_owned(), Vec::new());
    };
    let mut parser = ToolParser::new(Arc::clone(names), one_call);
    let mut parts = parser.push(text);
    parts.extend(parser.finish());
    let (mut text, mut calls) = (String::new(), Vec::<Call>::new());
    for part in parts {
        match (part, calls.last_mut()) {
            (Part::Text(more), _) => text.push_str(&more),
            (Part::Name(name), _) => calls.push(Call {
                name,
                ..Call::default()
            }),
            (Part::Arguments(more), Some(call)) => call.arguments.push_str(&more),
            (Part::Arguments(_) | Part::End, _) => {}
        }
    }
    // Blanks around calls are no text.
    let text = if calls.is_empty() {
        text
    } else {
        text.trim().to_owned()
    };
    (text, calls)
}

/// One answer as it comes.
struct Voice {
    begun: bool,
    /// Where functions may be called.
    parser: Option<ToolParser>,
    calls: usize,
    usage: Usage,
}

impl Voice {
    fn new(form: &Form) -> Self {
        let parser = |names| ToolParser::new(Arc::clone(names), form.one_call);
        Voice {
            begun: false,
            parser: form.callable.as_ref().map(parser),
            calls: 0,
            usage: Usage::default(),
        }
    }
}

struct Stream {
    form: Form,
    include: bool,
    voices: Vec<Voice>,
}

impl Stream {
    fn chunk(&self, index: usize, delta: Value, tokens: &[Spoken], finish: Option<&str>) -> Event {
        let choice = json!({
            "index": index,
            "delta": delta,
            "logprobs": self.form.logprobs.then(|| self.form.listed(tokens)),
            "finish_reason": finish,
        });
        data(&self.form.object("chat.completion.chunk", vec![choice]))
    }

    /// The events of what was said. Log probabilities come with the first.
    fn parts(&mut self, index: usize, parts: Vec<Part>, tokens: &[Spoken]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut tokens = Some(tokens);
        for part in parts {
            let calls = &mut self.voices[index].calls;
            let delta = match part {
                Part::Text(text) => json!({"content": text}),
                Part::Name(name) => {
                    let mut object = call(&Call {
                        name,
                        ..Call::default()
                    });
                    object["index"] = (*calls).into();
                    *calls += 1;
                    json!({"tool_calls": [object]})
                }
                Part::Arguments(more) => {
                    let function = json!({"arguments": more});
                    let at = calls.saturating_sub(1);
                    json!({"tool_calls": [{"index": at, "function": function}]})
                }
                Part::End => continue,
            };
            let tokens = tokens.take().unwrap_or_default();
            events.push(self.chunk(index, delta, tokens, None));
        }
        if let (Some(tokens), true) = (tokens, self.form.logprobs)
            && !tokens.is_empty()
        {
            events.push(self.chunk(index, json!({}), tokens, None));
        }
        events
    }
}

impl Narrator for Stream {
    fn tell(&mut self, index: usize, reply: Reply) -> Vec<Event> {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.voices[index].begun, true) {
            let delta = json!({"role": "assistant", "content": ""});
            events.push(self.chunk(index, delta, &[], None));
        }
        match reply {
            Reply::Piece(piece) => {
                let parts = match &mut self.voices[index].parser {
                    Some(parser) => parser.push(&piece.text),
                    None if piece.text.is_empty() => Vec::new(),
                    None => vec![Part::Text(piece.text)],
                };
                events.extend(self.parts(index, parts, &piece.tokens));
            }
            Reply::Done(finish, usage) => {
                self.voices[index].usage = usage;
                let parser = self.voices[index].parser.as_mut();
                let parts = parser.map(ToolParser::finish).unwrap_or_default();
                events.extend(self.parts(index, parts, &[]));
                let word = match (self.voices[index].calls, finish) {
                    (1.., Finish::Stop) => "tool_calls",
                    _ => finish_word(finish),
                };
                events.push(self.chunk(index, json!({}), &[], Some(word)));
            }
            Reply::Vector(..) | Reply::Failed(_) => {}
        }
        events
    }

    fn end(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.include {
            let usages: Vec<Usage> = self.voices.iter().map(|voice| voice.usage).collect();
            let mut object = self.form.object("chat.completion.chunk", Vec::new());
            object["usage"] = usage(&usages, &self.form.offer);
            events.push(data(&object));
        }
        events.push(Event::default().data("[DONE]"));
        events
    }
}
