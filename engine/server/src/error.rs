//! What goes wrong, for who starts a server and for who calls it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longwave_runtime::Error;
use longwave_runtime::schedule::Refusal;
use longwave_runtime::session::SessionError;
use serde_json::{Value, json};

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It cannot listen.
    #[error("{address}: {source}")]
    Listen {
        /// Where it was to.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A setting is of no use.
    #[error("{0}")]
    Setting(String),
}

/// An error as OpenAI's clients read it.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// The field that is wrong, where one is.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// Seconds after which it may be tried again.
    pub retry_after: Option<u32>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError {
            status,
            message: message.into(),
            param: None,
            code: None,
            retry_after: None,
        }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field of the request is wrong.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        ApiError {
            param: Some(param.into()),
            ..ApiError::invalid(format!("{param}: {}", message.into()))
        }
    }

    /// The server ends, or its device is gone.
    pub fn unavailable(message: impl Into<String>) -> Self {
        ApiError {
            retry_after: Some(5),
            ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// OpenAI's error object.
    pub fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::QueueFull { .. } => ApiError {
                retry_after: Some(1),
                code: Some("queue_full"),
                ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
            },
            Refusal::NeverFits { .. } => ApiError {
                code: Some("cache_exceeded"),
                ..ApiError::invalid(message)
            },
            Refusal::Invalid(error) => error.into(),
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::ContextExceeded { .. } => ApiError {
                code: Some("context_length_exceeded"),
                ..ApiError::invalid(message)
            },
            Error::EmptyPrompt
            | Error::TokenBeyondVocabulary { .. }
            | Error::Parameter(_)
            | Error::Text(_) => ApiError::invalid(message),
            Error::NoSession { busy: true, .. } => ApiError::new(StatusCode::CONFLICT, message),
            Error::NoSession { .. } => ApiError::new(StatusCode::NOT_FOUND, message),
            Error::CacheFull { .. } => ApiError::unavailable(message),
            _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        let message = error.to_string();
        match error {
            SessionError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ApiError::new(StatusCode::NOT_FOUND, message)
            }
            SessionError::Io { .. } => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message),
            SessionError::Engine(error) => error.into(),
            _ => ApiError::new(StatusCode::CONFLICT, message),
        }
    }
}
