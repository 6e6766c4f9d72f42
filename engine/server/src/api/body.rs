//! Bodies as JSON, with errors that say where they are wrong.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use super::{Shared, gate};
use crate::error::ApiError;

/// A request's body.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, shared).await;
        let bytes = bytes.map_err(|rejection: BytesRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => gate::too_long(shared.config.body_bytes as u64),
            status => ApiError::new(status, rejection.body_text()),
        })?;
        parse(&bytes).map(Body)
    }
}

/// Reads JSON. What type a client says that it is does not matter.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(ApiError::invalid(format!("the body is no UTF-8: {error}")));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| ApiError::invalid(format!("the body cannot be read: {error}")))
}

/// A name for an answer that no other has.
pub fn id(prefix: &str) -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let random = RandomState::new().build_hasher().finish();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{random:016x}{number:08x}")
}
