//! What the server is and how it stands.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use longwave_runtime::schedule::Stats;
use serde_json::{Value, json};

use super::Shared;
use crate::error::ApiError;

/// How long a device that works may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pages load nothing from elsewhere, and nobody frames them.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn listed(shared: &Shared) -> Value {
    let context = shared.offers.iter().map(|offer| offer.context).max();
    let policies: Vec<Value> = shared
        .offers
        .iter()
        .map(|offer| {
            json!({
                "policy": offer.policy, "label": offer.label, "keep": offer.keep,
                "bytes": offer.share, "context": offer.context, "dense_bytes_per_token": offer.dense_bytes,
            })
        })
        .collect();
    json!({
        "id": shared.subject.name,
        "object": "model",
        "created": shared.began,
        "owned_by": "longwave",
        "max_model_len": context,
        "kv": policies,
    })
}

pub async fn models(Extract(shared): super::State) -> Json<Value> {
    Json(json!({"object": "list", "data": [listed(&shared)]}))
}

pub async fn model(
    Extract(shared): super::State,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    shared.check_model(Some(&name))?;
    Ok(Json(listed(&shared)))
}

/// Whether the device answers.
pub async fn health(Extract(shared): super::State) -> Result<Json<Value>, ApiError> {
    shared.handle.stats(PATIENCE).await?;
    Ok(Json(json!({"status": "ok"})))
}

/// All offers together.
fn sum(all: &[Stats]) -> Stats {
    all.iter().fold(Stats::default(), |sum, stats| Stats {
        running: sum.running + stats.running,
        waiting: sum.waiting + stats.waiting,
        kv_bytes_used: sum.kv_bytes_used + stats.kv_bytes_used,
        kv_bytes_reusable: sum.kv_bytes_reusable + stats.kv_bytes_reusable,
        kv_bytes_total: sum.kv_bytes_total + stats.kv_bytes_total,
        kv_bytes_raw: sum.kv_bytes_raw + stats.kv_bytes_raw,
        kv_bytes_blocks: sum.kv_bytes_blocks + stats.kv_bytes_blocks,
        tokens_held: sum.tokens_held + stats.tokens_held,
        kv_bytes_dense: sum.kv_bytes_dense + stats.kv_bytes_dense,
        requests: sum.requests + stats.requests,
        prompt_tokens: sum.prompt_tokens + stats.prompt_tokens,
        cached_tokens: sum.cached_tokens + stats.cached_tokens,
        generated_tokens: sum.generated_tokens + stats.generated_tokens,
        preemptions: sum.preemptions + stats.preemptions,
        steps: sum.steps + stats.steps,
    })
}

/// How each policy's engine stands.
pub async fn stats(Extract(shared): super::State) -> Result<Json<Value>, ApiError> {
    let all = shared.handle.stats(PATIENCE).await?;
    let told = |stats: &Stats| {
        let live = stats.kv_bytes_used.saturating_sub(stats.kv_bytes_reusable);
        let ratio = match stats.kv_bytes_dense {
            0 => Value::Null,
            dense => json!(live as f64 / dense as f64),
        };
        json!({
            "running": stats.running,
            "waiting": stats.waiting,
            "kv_bytes_used": stats.kv_bytes_used,
            "kv_bytes_reusable": stats.kv_bytes_reusable,
            "kv_bytes_total": stats.kv_bytes_total,
            "kv_bytes_raw": stats.kv_bytes_raw,
            "kv_bytes_blocks": stats.kv_bytes_blocks,
            "kv_bytes_dense": stats.kv_bytes_dense,
            "kv_ratio": ratio,
            "tokens_held": stats.tokens_held,
            "requests": stats.requests,
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "generated_tokens": stats.generated_tokens,
            "preemptions": stats.preemptions,
            "steps": stats.steps,
        })
    };
    let policies: Vec<Value> = shared
        .offers
        .iter()
        .zip(&all)
        .map(|(offer, stats)| {
            let mut object = told(stats);
            object["policy"] = offer.label.clone().into();
            object
        })
        .collect();
    let mut object = told(&sum(&all));
    object["model"] = shared.subject.name.clone().into();
    object["policies"] = policies.into();
    Ok(Json(object))
}

pub async fn metrics(Extract(shared): super::State) -> Result<Response, ApiError> {
    let all = shared.handle.stats(PATIENCE).await?;
    let text = shared.handle.metrics.text(&sum(&all));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

pub async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, include_str!("../../page/openapi.json")).into_response()
}

fn html(text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(text)).into_response()
}

pub async fn docs() -> Response {
    html(include_str!("../../page/docs.html"))
}

pub async fn page() -> Response {
    html(include_str!("../../page/chat.html"))
}
