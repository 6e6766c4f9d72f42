//! The routes.

mod answer;
mod body;
mod chat;
mod completions;
mod embeddings;
mod gate;
mod params;
mod responses;
mod sessions;
mod status;
mod tokens;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::middleware;
use axum::routing::{delete, get, post};
use longwave_runtime::schedule::Scheduler;
use tower_http::cors::{Any, CorsLayer};

use crate::config::{Offer, ServerConfig, Subject};
use crate::error::{ApiError, ServerError};
use crate::grammar::Grammars;
use crate::worker::Handle;

/// What handlers share.
pub struct Shared {
    pub config: ServerConfig,
    pub subject: Subject,
    pub offers: Vec<OfferInfo>,
    pub handle: Handle,
    pub grammars: Grammars,
    /// When the server began, in seconds of Unix time.
    pub began: u64,
}

/// What is known of an offer without asking the worker.
#[derive(Clone, Debug)]
pub struct OfferInfo {
    pub policy: String,
    pub label: String,
    pub keep: Option<u32>,
    pub share: f64,
    pub context: u32,
    /// Bytes of a token as f16 rows.
    pub dense_bytes: u64,
    pub vocabulary: u32,
}

impl OfferInfo {
    /// Takes an offer apart.
    pub fn of(offer: Offer) -> (Self, Scheduler) {
        let engine = offer.scheduler.engine();
        let info = OfferInfo {
            policy: offer.policy,
            label: offer.label,
            keep: offer.keep,
            share: offer.share,
            context: engine.options().context,
            dense_bytes: engine.model().config().dense_bytes_per_token(),
            vocabulary: engine.model().config().vocabulary,
        };
        (info, offer.scheduler)
    }
}

pub type State = axum::extract::State<Arc<Shared>>;

impl Shared {
    pub fn new(
        config: ServerConfig,
        subject: Subject,
        offers: Vec<OfferInfo>,
        handle: Handle,
    ) -> Result<Self, ServerError> {
        let vocabulary = offers.first().map_or(0, |offer| offer.vocabulary);
        Ok(Shared {
            grammars: Grammars::new(&subject.tokenizer, vocabulary),
            config,
            subject,
            offers,
            handle,
            began: now(),
        })
    }

    /// Whether a request asks for the model that there is. Without a name it does.
    pub fn check_model(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(name) if name != self.subject.name => Err(ApiError {
                param: Some("model".into()),
                code: Some("model_not_found"),
                ..ApiError::new(
                    axum::http::StatusCode::NOT_FOUND,
                    format!(
                        "there is no model {name:?} here, but {:?}",
                        self.subject.name
                    ),
                )
            }),
            _ => Ok(()),
        }
    }
}

/// Seconds of Unix time.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// All routes.
pub fn router(shared: Arc<Shared>) -> Router {
    // What only those with the key may do.
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/responses", post(responses::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(status::models))
        .route("/v1/models/{*name}", get(status::model))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{id}", delete(sessions::forget))
        .route("/v1/sessions/{id}/save", post(sessions::save))
        .route("/v1/sessions/{id}/restore", post(sessions::restore))
        .route("/v1/sessions/{id}/fork", post(sessions::fork))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/stats", get(status::stats))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            gate::key,
        ));
    let router = guarded
        .route("/health", get(status::health))
        .route("/metrics", get(status::metrics))
        .route("/openapi.json", get(status::openapi))
        .route("/docs", get(status::docs))
        .route("/", get(status::page))
        .fallback(gate::not_found)
        .method_not_allowed_fallback(gate::not_allowed)
        .layer(DefaultBodyLimit::max(shared.config.body_bytes))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            gate::size,
        ));
    let router = match cors(&shared.config.cors) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.with_state(shared)
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let cors = CorsLayer::new()
        .allow_methods(Any)
        .allow_headers(Any)
        .max_age(Duration::from_secs(600));
    Some(match origins.iter().any(|origin| origin == "*") {
        true => cors.allow_origin(Any),
        false => {
            let origins = origins.iter();
            let origins = origins.filter_map(|origin| HeaderValue::from_str(origin).ok());
            cors.allow_origin(origins.collect::<Vec<_>>())
        }
    })
}
