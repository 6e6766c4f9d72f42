//! `/v1/embeddings`: texts as vectors.

use axum::Json;
use axum::extract::State as Extract;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use longwave_runtime::schedule::{Goal, Pooling, Request};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Replies;
use super::body::Body;
use super::completions::Prompt;
use super::params::KvChoice;
use super::params::Params;
use crate::error::ApiError;
use crate::worker::Reply;

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ApiPooling {
    #[default]
    Mean,
    Last,
}

#[derive(Debug, Deserialize)]
pub struct Embeddings {
    model: Option<String>,
    input: Prompt,
    #[serde(default)]
    encoding_format: Encoding,
    dimensions: Option<usize>,
    /// Which vector stands for a text: the mean of its tokens' states, or that of the last one.
    #[serde(default)]
    pooling: ApiPooling,
    /// Whether vectors have length 1, as OpenAI's have.
    normalize: Option<bool>,
    kv: Option<KvChoice>,
}

/// Texts of a request at most.
const MOST: usize = 2048;

pub async fn create(
    Extract(shared): super::State,
    Body(request): Body<Embeddings>,
) -> Result<Json<Value>, ApiError> {
    shared.check_model(request.model.as_deref())?;
    let params = Params {
        kv: request.kv.clone(),
        ..Params::default()
    };
    let offer = params.offer(&shared)?;
    let prompts = request.input.tokens(&shared)?;
    if prompts.is_empty() || prompts.len() > MOST {
        return Err(ApiError::field(
            "input",
            format!("expected 1 to {MOST} texts"),
        ));
    }
    let pooling = match request.pooling {
        ApiPooling::Mean => Pooling::Mean,
        ApiPooling::Last => Pooling::Last,
    };
    let mut vectors = Vec::new();
    let mut tokens = 0;
    // One after another: a client's many texts do not fill the queue.
    for prompt in prompts {
        let one = Request {
            prompt,
            goal: Goal::Embed(pooling),
            priority: 0,
            session: None,
        };
        let mut replies = Replies::of(&shared, offer, vec![one], Vec::new()).await?;
        while let Some((_, reply)) = replies.next().await {
            match reply {
                Reply::Vector(values, usage) => {
                    tokens += usage.prompt_tokens;
                    vectors.push(values);
                }
                Reply::Failed(error) => return Err(error),
                Reply::Piece(_) | Reply::Done(..) => {}
            }
        }
    }
    let width = vectors.first().map_or(0, Vec::len);
    if request
        .dimensions
        .is_some_and(|dimensions| dimensions != width)
    {
        let why = format!("the model's vectors have {width}");
        return Err(ApiError::field("dimensions", why));
    }
    let data: Vec<Value> = vectors
        .into_iter()
        .enumerate()
        .map(|(index, mut values)| {
            if request.normalize != Some(false) {
                normalize(&mut values);
            }
            let embedding = match request.encoding_format {
                Encoding::Float => json!(values),
                Encoding::Base64 => {
                    let bytes: Vec<u8> = values
                        .iter()
                        .flat_map(|value| value.to_le_bytes())
                        .collect();
                    json!(STANDARD.encode(bytes))
                }
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    Ok(Json(json!({
        "object": "list",
        "data": data,
        "model": shared.subject.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })))
}

/// Gives a vector length 1, unless it is zero.
fn normalize(values: &mut [f32]) {
    let square: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
    if square > 0.0 {
        let scale = 1.0 / square.sqrt();
        values
            .iter_mut()
            .for_each(|value| *value = (f64::from(*value) * scale) as f32);
    }
}
