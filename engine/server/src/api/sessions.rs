//! `/v1/sessions`: sequences that stay, by name. A request that names a session goes on from what it holds.

use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::body::Body;
use super::params::{KvChoice, Params, session_name};
use crate::error::ApiError;
use crate::worker::{SessionCommand, SessionReply, session_path};

/// Which of the server's policies.
#[derive(Debug, Default, Deserialize)]
pub struct Which {
    policy: Option<String>,
}

/// Where to.
#[derive(Debug, Deserialize)]
pub struct To {
    to: String,
}

fn offer(shared: &Shared, which: &Which) -> Result<usize, ApiError> {
    let kv = KvChoice {
        policy: which.policy.clone(),
        ..KvChoice::default()
    };
    let params = Params {
        kv: Some(kv),
        ..Params::default()
    };
    params.offer(shared)
}

fn checked(name: String) -> Result<String, ApiError> {
    session_name(&name).map_err(ApiError::invalid)?;
    Ok(name)
}

/// A session's file.
fn file(shared: &Shared, offer: usize, name: &str) -> Result<PathBuf, ApiError> {
    let Some(folder) = &shared.config.session_dir else {
        let why = "sessions are not saved here: the server was started without --session-dir";
        return Err(ApiError::invalid(why));
    };
    Ok(session_path(folder, offer, name))
}

pub async fn list(
    Extract(shared): super::State,
    Query(which): Query<Which>,
) -> Result<Json<Value>, ApiError> {
    let offer = offer(&shared, &which)?;
    let SessionReply::Sessions(found) = shared.handle.session(offer, SessionCommand::List).await?
    else {
        return Err(ApiError::unavailable("no answer"));
    };
    let data: Vec<Value> = found
        .iter()
        .map(|one| json!({"id": one.name, "object": "session", "tokens": one.tokens, "kv_bytes": one.kv_bytes}))
        .collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

pub async fn save(
    Extract(shared): super::State,
    Path(name): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, ApiError> {
    let (name, offer) = (checked(name)?, offer(&shared, &which)?);
    let path = file(&shared, offer, &name)?;
    let command = SessionCommand::Save(name.clone(), path);
    match shared.handle.session(offer, command).await? {
        SessionReply::Saved(bytes) => Ok(Json(
            json!({"id": name, "object": "session", "bytes": bytes}),
        )),
        _ => Err(ApiError::unavailable("no answer")),
    }
}

pub async fn restore(
    Extract(shared): super::State,
    Path(name): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, ApiError> {
    let (name, offer) = (checked(name)?, offer(&shared, &which)?);
    let path = file(&shared, offer, &name)?;
    tokens(
        &shared,
        offer,
        name.clone(),
        SessionCommand::Restore(name, path),
    )
    .await
}

pub async fn fork(
    Extract(shared): super::State,
    Path(name): Path<String>,
    Query(which): Query<Which>,
    Body(To { to }): Body<To>,
) -> Result<Json<Value>, ApiError> {
    let (name, to, offer) = (checked(name)?, checked(to)?, offer(&shared, &which)?);
    tokens(&shared, offer, to.clone(), SessionCommand::Fork(name, to)).await
}

async fn tokens(
    shared: &Shared,
    offer: usize,
    name: String,
    command: SessionCommand,
) -> Result<Json<Value>, ApiError> {
    match shared.handle.session(offer, command).await? {
        SessionReply::Tokens(tokens) => Ok(Json(
            json!({"id": name, "object": "session", "tokens": tokens}),
        )),
        _ => Err(ApiError::unavailable("no answer")),
    }
}

pub async fn forget(
    Extract(shared): super::State,
    Path(name): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, ApiError> {
    let (name, offer) = (checked(name)?, offer(&shared, &which)?);
    shared
        .handle
        .session(offer, SessionCommand::Forget(name.clone()))
        .await?;
    Ok(Json(
        json!({"id": name, "object": "session", "deleted": true}),
    ))
}
