//! What every request passes.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::Shared;
use crate::error::ApiError;

/// Lets those pass who have the key, where there is one.
pub async fn key(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let Some(key) = &shared.config.api_key else {
        return next.run(request).await;
    };
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // How long it takes says nothing about where they differ.
    let fits = given.is_some_and(|given| bool::from(given.ct_eq(key.as_bytes())));
    match fits {
        true => next.run(request).await,
        false => ApiError {
            code: Some("invalid_api_key"),
            ..ApiError::new(StatusCode::UNAUTHORIZED, "the API key is missing or wrong")
        }
        .into_response(),
    }
}

/// Refuses bodies that say that they are too long, before they are read.
pub async fn size(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let most = shared.config.body_bytes as u64;
    match length {
        Some(length) if length > most => too_long(most).into_response(),
        _ => next.run(request).await,
    }
}

pub fn too_long(most: u64) -> ApiError {
    let why = format!("the body is longer than {most} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, why)
}

pub async fn not_found(uri: Uri) -> ApiError {
    let why = format!("there is no {}: /docs says what there is", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, why)
}

pub async fn not_allowed(method: Method, uri: Uri) -> ApiError {
    let why = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, why)
}
