//! `/v1/responses`: a conversation goes on, and nothing of it is stored.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use longwave_runtime::schedule::Usage;
use longwave_runtime::text::ChatOptions;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::{Narrator, Replies, collect, stream};
use super::body::{Body, id};
use super::chat::{callable, logprobs, said, tool_list};
use super::params::Params;
use super::{OfferInfo, Shared, now};
use crate::chat::{ApiMessage, text_of, tokens};
use crate::error::ApiError;
use crate::text::Spoken;
use crate::tools::{Call, Function, Part, Tool, ToolChoice, ToolParser, call_schema};
use crate::worker::{Finish, Reply};

/// What asks for log probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

#[derive(Debug, Deserialize)]
pub struct Responses {
    input: Value,
    instructions: Option<String>,
    store: Option<bool>,
    previous_response_id: Option<String>,
    #[serde(default)]
    tools: Option<Vec<FlatTool>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    text: Option<Value>,
    /// What else is asked for: here, [`LOGPROBS`].
    #[serde(default)]
    include: Option<Vec<String>>,
    top_logprobs: Option<usize>,
    #[serde(flatten)]
    params: Params,
}

/// A tool as this interface has it: the function's fields beside the type.
#[derive(Debug, Deserialize)]
pub struct FlatTool {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    description: Option<String>,
    parameters: Option<Value>,
}

impl From<FlatTool> for Tool {
    fn from(tool: FlatTool) -> Self {
        Tool {
            kind: tool.kind,
            function: Function {
                name: tool.name,
                description: tool.description,
                parameters: tool.parameters,
            },
        }
    }
}

/// What was said so far, as messages.
fn messages(input: Value, instructions: Option<String>) -> Result<Vec<ApiMessage>, ApiError> {
    let message = |role: &str, content: String, extra: Map<String, Value>| ApiMessage {
        role: role.into(),
        content: content.into(),
        extra,
    };
    let mut all = Vec::new();
    all.extend(instructions.map(|text| message("system", text, Map::new())));
    let items = match input {
        Value::String(text) => {
            all.push(message("user", text, Map::new()));
            return Ok(all);
        }
        Value::Array(items) => items,
        _ => {
            return Err(ApiError::field(
                "input",
                "expected a text or a list of items",
            ));
        }
    };
    for (index, item) in items.into_iter().enumerate() {
        let wrong = |why: String| ApiError::field(&format!("input[{index}]"), why);
        let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
        match item["type"].as_str().unwrap_or("message") {
            "message" => {
                let content = text_of(&item["content"]).map_err(wrong)?;
                all.push(message(&text("role"), content, Map::new()));
            }
            "function_call" => {
                let call = json!([{
                    "id": item["call_id"], "type": "function",
                    "function": {"name": item["name"], "arguments": item["arguments"]},
                }]);
                let extra = Map::from_iter([("tool_calls".to_owned(), call)]);
                all.push(message("assistant", String::new(), extra));
            }
            "function_call_output" => {
                let output = match &item["output"] {
                    Value::String(output) => output.clone(),
                    other => text_of(other).map_err(wrong)?,
                };
                let extra = Map::from_iter([("tool_call_id".to_owned(), item["call_id"].clone())]);
                all.push(message("tool", output, extra));
            }
            "reasoning" => {}
            other => return Err(wrong(format!("items of type {other} are not supported"))),
        }
    }
    Ok(all)
}

pub async fn create(
    Extract(shared): super::State,
    Body(request): Body<Responses>,
) -> Result<Response, ApiError> {
    let params = &request.params;
    shared.check_model(params.model.as_deref())?;
    params.check()?;
    if request.store == Some(true) {
        return Err(ApiError::field(
            "store",
            "nothing is stored here: send false",
        ));
    }
    if request.previous_response_id.is_some() {
        let why = "nothing is stored here: send the whole conversation as input";
        return Err(ApiError::field("previous_response_id", why));
    }
    if params.answers() > 1 {
        return Err(ApiError::field("n", "a response is one answer"));
    }
    let offer = params.offer(&shared)?;
    let tools: Vec<Tool> = request
        .tools
        .unwrap_or_default()
        .into_iter()
        .map(Tool::from)
        .collect();
    let choice = ToolChoice::of(request.tool_choice.as_ref(), &tools)?;
    let options = ChatOptions {
        tools: (choice != ToolChoice::Nothing).then(|| tool_list(&tools)),
        ..ChatOptions::default()
    };
    let prompt = tokens(
        &shared.subject,
        messages(request.input, request.instructions.clone())?,
        &options,
    )?;
    let format = request.text.as_ref().and_then(|text| text.get("format"));
    let schema = match &choice {
        ToolChoice::Required(names) => Some(call_schema(&tools, names)),
        _ => params.schema(format)?,
    };
    let constraint = || {
        let made = schema.clone().map(|schema| shared.grammars.schema(schema));
        made.transpose()
            .map_err(|why| ApiError::field("text.format", why))
    };
    let included = request.include.unwrap_or_default();
    let most = match included.iter().any(|name| name == LOGPROBS) {
        true => Some(request.top_logprobs.unwrap_or(0)),
        false => request.top_logprobs,
    };
    let requests = params.requests(&shared, &prompt, None, most, &constraint)?;
    let replies = Replies::of(&shared, offer, requests, params.stops()).await?;
    let form = Form {
        id: id("resp"),
        message: id("msg"),
        created: now(),
        shared: Arc::clone(&shared),
        instructions: request.instructions,
        callable: callable(&choice, &tools),
        one_call: request.parallel_tool_calls == Some(false),
        offer: shared.offers[offer].clone(),
    };
    if params.streams() {
        return Ok(stream(replies, Stream::new(form)));
    }
    let answer = collect(replies, 1).await?.pop().unwrap_or_default();
    let (text, calls) = said(&answer.text, form.callable.as_ref(), form.one_call);
    let mut output = Vec::new();
    if !text.is_empty() || calls.is_empty() {
        output.push(form.message(&text, &answer.tokens, "completed"));
    }
    output.extend(calls.iter().map(|call| form.call(&id("fc"), call)));
    let object = form.object(output, answer.finish, Some(answer.usage));
    Ok(Json(object).into_response())
}

/// How a response is written.
struct Form {
    id: String,
    message: String,
    created: u64,
    shared: Arc<Shared>,
    instructions: Option<String>,
    callable: Option<Arc<[String]>>,
    one_call: bool,
    offer: OfferInfo,
}

impl Form {
    fn object(&self, output: Vec<Value>, finish: Option<Finish>, usage: Option<Usage>) -> Value {
        let status = match finish {
            None => "in_progress",
            Some(Finish::Stop) => "completed",
            Some(Finish::Length) => "incomplete",
        };
        let details =
            (finish == Some(Finish::Length)).then(|| json!({"reason": "max_output_tokens"}));
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": details,
            "instructions": self.instructions,
            "metadata": {},
            "model": self.shared.subject.name,
            "output": output,
            "parallel_tool_calls": !self.one_call,
            "temperature": null,
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "store": false,
            "usage": usage.map(|usage| self.usage(usage)),
        })
    }

    fn usage(&self, usage: Usage) -> Value {
        let ratio = match usage.kv_bytes_dense {
            0 => 0.0,
            dense => usage.kv_bytes as f64 / dense as f64,
        };
        json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "kv_bytes": usage.kv_bytes,
            "kv_ratio": ratio,
            "kv_policy": self.offer.label,
        })
    }

    fn message(&self, text: &str, tokens: &[Spoken], status: &str) -> Value {
        json!({
            "type": "message",
            "id": self.message,
            "status": status,
            "role": "assistant",
            "content": [self.part(text, tokens)],
        })
    }

    fn part(&self, text: &str, tokens: &[Spoken]) -> Value {
        let logprobs = logprobs(&self.shared, tokens);
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
    }

    fn call(&self, name: &str, call: &Call) -> Value {
        json!({
            "type": "function_call",
            "id": name,
            "call_id": id("call"),
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        })
    }
}

struct Stream {
    form: Form,
    /// Where functions may be called.
    parser: Option<ToolParser>,
    number: u64,
    /// Items of the output so far.
    items: usize,
    /// The message's place among them and what was said, once there is a message for it.
    text: Option<(usize, String)>,
    /// The answer's tokens, and how many of them no event has told yet.
    tokens: Vec<Spoken>,
    untold: usize,
    /// Calls, with their places.
    calls: Vec<(usize, Value)>,
    ended: Option<(Finish, Usage)>,
}

impl Stream {
    fn new(form: Form) -> Self {
        let parser = |names| ToolParser::new(Arc::clone(names), form.one_call);
        Stream {
            parser: form.callable.as_ref().map(parser),
            form,
            number: 0,
            items: 0,
            text: None,
            tokens: Vec::new(),
            untold: 0,
            calls: Vec::new(),
            ended: None,
        }
    }

    fn event(&mut self, kind: &str, mut object: Value) -> Event {
        object["type"] = kind.into();
        object["sequence_number"] = self.number.into();
        self.number += 1;
        Event::default().event(kind).data(object.to_string())
    }

    /// The place of an item that begins.
    fn next_place(&mut self) -> usize {
        self.items += 1;
        self.items - 1
    }

    fn say(&mut self, more: &str) -> Vec<Event> {
        let mut events = Vec::new();
        let item = self.form.message.clone();
        let at = match &mut self.text {
            Some((at, text)) => {
                text.push_str(more);
                *at
            }
            None => {
                let at = self.next_place();
                self.text = Some((at, more.to_owned()));
                let mut message = self.form.message("", &[], "in_progress");
                message["content"] = json!([]);
                let added = json!({"output_index": at, "item": message});
                events.push(self.event("response.output_item.added", added));
                let part = self.form.part("", &[]);
                let added =
                    json!({"item_id": item, "output_index": at, "content_index": 0, "part": part});
                events.push(self.event("response.content_part.added", added));
                at
            }
        };
        if !more.is_empty() {
            let untold = self.tokens.len() - std::mem::take(&mut self.untold);
            let logprobs = logprobs(&self.form.shared, &self.tokens[untold..]);
            let delta = json!({"item_id": item, "output_index": at, "content_index": 0, "delta": more, "logprobs": logprobs});
            events.push(self.event("response.output_text.delta", delta));
        }
        events
    }

    /// A call begins, whose arguments follow.
    fn begin_call(&mut self, name: String) -> Vec<Event> {
        let begun = Call {
            name,
            ..Call::default()
        };
        let mut item = self.form.call(&id("fc"), &begun);
        item["status"] = "in_progress".into();
        let at = self.next_place();
        self.calls.push((at, item.clone()));
        let added = json!({"output_index": at, "item": item});
        vec![self.event("response.output_item.added", added)]
    }

    /// More of the last call's arguments.
    fn add_arguments(&mut self, more: &str) -> Vec<Event> {
        let Some((at, call)) = self.calls.last_mut() else {
            return Vec::new();
        };
        let before = call["arguments"].as_str().unwrap_or_default();
        call["arguments"] = format!("{before}{more}").into();
        let delta = json!({"item_id": call["id"], "output_index": at, "delta": more});
        vec![self.event("response.function_call_arguments.delta", delta)]
    }

    /// The last call is whole.
    fn end_call(&mut self) -> Vec<Event> {
        let Some((at, call)) = self.calls.last_mut() else {
            return Vec::new();
        };
        call["status"] = "completed".into();
        let done =
            json!({"item_id": call["id"], "output_index": at, "arguments": call["arguments"]});
        let item = json!({"output_index": at, "item": call});
        vec![
            self.event("response.function_call_arguments.done", done),
            self.event("response.output_item.done", item),
        ]
    }

    fn parts(&mut self, parts: Vec<Part>) -> Vec<Event> {
        let mut events = Vec::new();
        for part in parts {
            events.extend(match part {
                Part::Text(text) => self.say(&text),
                Part::Name(name) => self.begin_call(name),
                Part::Arguments(more) => self.add_arguments(&more),
                Part::End => self.end_call(),
            });
        }
        events
    }
}

impl Narrator for Stream {
    fn begin(&mut self) -> Vec<Event> {
        let object = json!({"response": self.form.object(Vec::new(), None, None)});
        vec![
            self.event("response.created", object.clone()),
            self.event("response.in_progress", object),
        ]
    }

    fn tell(&mut self, _: usize, reply: Reply) -> Vec<Event> {
        let parts = match reply {
            Reply::Piece(piece) => {
                self.untold += piece.tokens.len();
                self.tokens.extend(piece.tokens);
                match &mut self.parser {
                    Some(parser) => parser.push(&piece.text),
                    None => vec![Part::Text(piece.text)],
                }
            }
            Reply::Done(finish, usage) => {
                self.ended = Some((finish, usage));
                let parser = self.parser.as_mut();
                parser.map(ToolParser::finish).unwrap_or_default()
            }
            Reply::Vector(..) | Reply::Failed(_) => Vec::new(),
        };
        self.parts(parts)
    }

    fn end(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.text.is_none() && self.calls.is_empty() {
            events.extend(self.say(""));
        }
        let mut output = std::mem::take(&mut self.calls);
        if let Some((at, text)) = self.text.clone() {
            let item = self.form.message.clone();
            let logprobs = logprobs(&self.form.shared, &self.tokens);
            let done = json!({"item_id": item, "output_index": at, "content_index": 0, "text": text, "logprobs": logprobs});
            events.push(self.event("response.output_text.done", done));
            let part = self.form.part(&text, &self.tokens);
            let done =
                json!({"item_id": item, "output_index": at, "content_index": 0, "part": part});
            events.push(self.event("response.content_part.done", done));
            let message = self.form.message(&text, &self.tokens, "completed");
            let done = json!({"output_index": at, "item": message});
            events.push(self.event("response.output_item.done", done));
            output.push((at, message));
        }
        output.sort_by_key(|(at, _)| *at);
        let output = output.into_iter().map(|(_, item)| item).collect();
        let (finish, usage) = self.ended.unwrap_or((Finish::Stop, Usage::default()));
        let object = self.form.object(output, Some(finish), Some(usage));
        let kind = match finish {
            Finish::Stop => "response.completed",
            Finish::Length => "response.incomplete",
        };
        events.push(self.event(kind, json!({"response": object})));
        events
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Event> {
        let mut object = self.form.object(Vec::new(), None, None);
        object["status"] = "failed".into();
        object["error"] = json!({"code": "server_error", "message": error.message});
        vec![self.event("response.failed", json!({"response": object}))]
    }
}
