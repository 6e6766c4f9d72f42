//! `/v1/completions`: a text goes on.

use axum::Json;
use axum::extract::State as Extract;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use longwave_runtime::schedule::{Request, Usage};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

use super::answer::{Narrator, Replies, collect, data, finish_word, stream, usage};
use super::body::Body;
use super::params::Params;
use super::{OfferInfo, Shared, now};
use crate::error::ApiError;
use crate::text::Spoken;
use crate::worker::Reply;

/// Tokens of an answer whose length is not given, as OpenAI's.
const MOST: usize = 16;

/// A prompt: a text, tokens, or several of either.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    Lists(Vec<Vec<u32>>),
}

impl Prompt {
    /// Each prompt as tokens.
    pub fn tokens(self, shared: &Shared) -> Result<Vec<Vec<u32>>, ApiError> {
        let encode = |text: String| {
            let tokens = shared.subject.tokenizer.encode(&text, true, true);
            tokens.map_err(|error| ApiError::from(longwave_runtime::Error::Text(error)))
        };
        match self {
            Prompt::Text(text) => Ok(vec![encode(text)?]),
            Prompt::Tokens(tokens) => Ok(vec![tokens]),
            Prompt::Texts(texts) => texts.into_iter().map(encode).collect(),
            Prompt::Lists(lists) => Ok(lists),
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct Completion {
    prompt: Prompt,
    logprobs: Option<usize>,
    response_format: Option<Value>,
    #[serde(flatten)]
    params: Params,
}

/// Prompts of a request at most.
const MOST_PROMPTS: usize = 128;

pub async fn create(
    Extract(shared): super::State,
    Body(request): Body<Completion>,
) -> Result<Response, ApiError> {
    let params = &request.params;
    shared.check_model(params.model.as_deref())?;
    params.check()?;
    let offer = params.offer(&shared)?;
    let prompts = request.prompt.tokens(&shared)?;
    if prompts.is_empty() || prompts.len() > MOST_PROMPTS {
        let why = format!("expected 1 to {MOST_PROMPTS} prompts");
        return Err(ApiError::field("prompt", why));
    }
    if params.session.is_some() && prompts.len() > 1 {
        return Err(ApiError::field(
            "prompt",
            "a session goes on in one way only",
        ));
    }
    let schema = params.schema(request.response_format.as_ref())?;
    let constraint = || {
        let made = schema.clone().map(|schema| shared.grammars.schema(schema));
        made.transpose()
            .map_err(|why| ApiError::field("response_format", why))
    };
    let mut requests: Vec<Request> = Vec::new();
    for prompt in &prompts {
        let made = params.requests(&shared, prompt, Some(MOST), request.logprobs, &constraint);
        requests.extend(made?);
    }
    let (count, each) = (requests.len(), params.answers() as usize);
    let replies = Replies::of(&shared, offer, requests, params.stops()).await?;
    let form = Form {
        id: super::body::id("cmpl"),
        created: now(),
        shared: Arc::clone(&shared),
        logprobs: request.logprobs.is_some(),
        offer: shared.offers[offer].clone(),
        each,
    };
    if params.streams() {
        let include = params.stream_options.unwrap_or_default().include_usage;
        let usages = vec![Usage::default(); count];
        return Ok(stream(
            replies,
            Stream {
                form,
                include,
                usages,
            },
        ));
    }
    let answers = collect(replies, count).await?;
    let choices: Vec<Value> = answers
        .iter()
        .enumerate()
        .map(|(index, answer)| {
            let finish = answer.finish.map(finish_word);
            form.choice(index, &answer.text, &answer.tokens, finish)
        })
        .collect();
    let usages: Vec<Usage> = answers.iter().map(|answer| answer.usage).collect();
    let mut object = form.object(choices);
    object["usage"] = form.usage(&usages);
    Ok(Json(object).into_response())
}

/// How answers are written.
struct Form {
    id: String,
    created: u64,
    shared: Arc<Shared>,
    logprobs: bool,
    offer: OfferInfo,
    /// Answers to each prompt.
    each: usize,
}

impl Form {
    fn object(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.shared.subject.name,
            "choices": choices,
        })
    }

    fn choice(&self, index: usize, text: &str, tokens: &[Spoken], finish: Option<&str>) -> Value {
        json!({
            "index": index,
            "text": text,
            "logprobs": self.logprobs.then(|| self.listed(tokens)),
            "finish_reason": finish,
        })
    }

    fn listed(&self, tokens: &[Spoken]) -> Value {
        let name = |token: u32| token_text(&self.shared, token);
        let chosen = |spoken: &Spoken| spoken.logprobs.as_ref().map(|logprobs| logprobs.chosen);
        let top = |spoken: &Spoken| {
            let top = spoken.logprobs.iter().flat_map(|logprobs| &logprobs.top);
            let top = top.map(|(token, logprob)| (name(*token), json!(logprob)));
            Value::Object(top.collect())
        };
        json!({
            "tokens": tokens.iter().map(|spoken| name(spoken.token)).collect::<Vec<_>>(),
            "token_logprobs": tokens.iter().map(chosen).collect::<Vec<_>>(),
            "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        })
    }

    /// What all prompts and answers took.
    fn usage(&self, usages: &[Usage]) -> Value {
        let mut sum = usage(usages, &self.offer);
        let prompts = usages.iter().step_by(self.each.max(1));
        let prompt: usize = prompts.clone().map(|usage| usage.prompt_tokens).sum();
        let cached: usize = prompts.map(|usage| usage.cached_tokens).sum();
        let completion = sum["completion_tokens"].as_u64().unwrap_or(0) as usize;
        sum["prompt_tokens"] = prompt.into();
        sum["prompt_tokens_details"]["cached_tokens"] = cached.into();
        sum["total_tokens"] = (prompt + completion).into();
        sum
    }
}

/// A token as text; bytes that are no characters show as such.
pub fn token_text(shared: &Shared, token: u32) -> String {
    let bytes = shared.subject.tokenizer.token_bytes(token);
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

struct Stream {
    form: Form,
    include: bool,
    usages: Vec<Usage>,
}

impl Narrator for Stream {
    fn tell(&mut self, index: usize, reply: Reply) -> Vec<Event> {
        let choice = match reply {
            Reply::Piece(piece) => self.form.choice(index, &piece.text, &piece.tokens, None),
            Reply::Done(finish, usage) => {
                self.usages[index] = usage;
                self.form.choice(index, "", &[], Some(finish_word(finish)))
            }
            Reply::Vector(..) | Reply::Failed(_) => return Vec::new(),
        };
        vec![data(&self.form.object(vec![choice]))]
    }

    fn end(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.include {
            let mut object = self.form.object(Vec::new());
            object["usage"] = self.form.usage(&self.usages);
            events.push(data(&object));
        }
        events.push(Event::default().data("[DONE]"));
        events
    }
}
