//! `/tokenize` and `/detokenize`: texts as tokens and back.

use axum::Json;
use axum::extract::State as Extract;
use longwave_runtime::text::ChatOptions;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::Body;
use crate::chat::{ApiMessage, tokens};
use crate::error::ApiError;

#[derive(Debug, Deserialize)]
pub struct Tokenize {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<ApiMessage>>,
    /// Whether what a tokenizer puts before every text comes with it.
    add_special_tokens: Option<bool>,
    /// Whether the text ends where the model is to answer.
    add_generation_prompt: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub struct Detokenize {
    model: Option<String>,
    tokens: Vec<u32>,
}

pub async fn tokenize(
    Extract(shared): super::State,
    Body(request): Body<Tokenize>,
) -> Result<Json<Value>, ApiError> {
    shared.check_model(request.model.as_deref())?;
    let subject = &shared.subject;
    let tokens = match (request.prompt, request.messages) {
        (Some(text), None) => {
            let special = request.add_special_tokens.unwrap_or(true);
            let found = subject.tokenizer.encode(&text, special, true);
            found.map_err(|error| ApiError::from(longwave_runtime::Error::Text(error)))?
        }
        (None, Some(messages)) => {
            let options = ChatOptions {
                add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
                ..ChatOptions::default()
            };
            tokens(subject, messages, &options)?
        }
        _ => return Err(ApiError::invalid("expected a prompt or messages")),
    };
    let context = shared.offers.iter().map(|offer| offer.context).max();
    Ok(Json(json!({
        "count": tokens.len(),
        "max_model_len": context,
        "tokens": tokens,
    })))
}

pub async fn detokenize(
    Extract(shared): super::State,
    Body(request): Body<Detokenize>,
) -> Result<Json<Value>, ApiError> {
    shared.check_model(request.model.as_deref())?;
    let text = shared.subject.tokenizer.decode(&request.tokens, false);
    let text = text.map_err(|error| ApiError::from(longwave_runtime::Error::Text(error)))?;
    Ok(Json(json!({"prompt": text})))
}
