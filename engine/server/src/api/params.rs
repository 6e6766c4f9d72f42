//! What requests of all kinds say about how tokens are chosen, and what is made of it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use longwave_runtime::schedule::{Constraint, Generate, Goal, Request};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Shared;
use crate::error::ApiError;

/// The most answers to one request, and the most texts that end one.
const MOST_ANSWERS: u32 = 16;
const MOST_STOPS: usize = 16;
const MOST_LOGPROBS: usize = 20;

/// One text, or some.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// What a stream holds besides.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

/// Which of the server's ways to keep the cache.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvChoice {
    pub policy: Option<String>,
    pub keep: Option<u32>,
    /// The share of a dense cache's bytes that it may take at most.
    pub bytes: Option<f64>,
}

/// The fields that all kinds have. Those that clients send and that change nothing are left out.
#[derive(Debug, Default, Deserialize)]
pub struct Params {
    pub model: Option<String>,
    pub max_tokens: Option<u64>,
    pub max_completion_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    pub n: Option<u32>,
    #[serde(default)]
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub stop: Option<OneOrMany>,
    pub seed: Option<i64>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<i64>,
    pub min_p: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub logit_bias: Option<BTreeMap<String, f32>>,
    pub ignore_eos: Option<bool>,
    pub priority: Option<i32>,
    pub kv: Option<KvChoice>,
    pub session: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What clients may send that there is not. Leaving it out silently would answer another question.
const UNSUPPORTED: [&str; 13] = [
    "audio",
    "background",
    "best_of",
    "conversation",
    "echo",
    "function_call",
    "functions",
    "include",
    "modalities",
    "prediction",
    "prompt_logprobs",
    "suffix",
    "web_search_options",
];

impl Params {
    /// Refuses what is not supported, by name. What says nothing is let pass.
    pub fn check(&self) -> Result<(), ApiError> {
        let says = |name: &&&str| match self.rest.get(**name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Number(number)) => number.as_u64() != Some(1),
            Some(Value::Array(list)) => {
                // Text is what there is.
                !(list.is_empty()
                    || (**name == "modalities" && list.iter().all(|one| one == "text")))
            }
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        };
        if let Some(name) = UNSUPPORTED.iter().find(says) {
            return Err(ApiError::field(name, "this is not supported"));
        }
        let within = |name: &str, value: Option<f32>, least: f32, most: f32| match value {
            Some(value) if !(least..=most).contains(&value) => Err(ApiError::field(
                name,
                format!("{value} is not between {least} and {most}"),
            )),
            _ => Ok(()),
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        if self.n.is_some_and(|n| !(1..=MOST_ANSWERS).contains(&n)) {
            let why = format!("expected 1 to {MOST_ANSWERS}");
            return Err(ApiError::field("n", why));
        }
        if self.top_k.is_some_and(|top_k| top_k < -1) {
            return Err(ApiError::field("top_k", "expected -1, 0 or more"));
        }
        if self.stop.as_ref().is_some_and(|stop| match stop {
            OneOrMany::One(_) => false,
            OneOrMany::Many(stops) => stops.len() > MOST_STOPS,
        }) {
            let why = format!("expected {MOST_STOPS} texts at most");
            return Err(ApiError::field("stop", why));
        }
        if let Some(name) = &self.session {
            session_name(name).map_err(|why| ApiError::field("session", why))?;
        }
        if self.session.is_some() && self.answers() > 1 {
            return Err(ApiError::field("n", "a session goes on in one way only"));
        }
        Ok(())
    }

    /// How many answers are wanted.
    pub fn answers(&self) -> u32 {
        self.n.unwrap_or(1)
    }

    /// Whether the answer is to come as a stream.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Texts that end the answer.
    pub fn stops(&self) -> Vec<String> {
        self.stop.clone().map_or(Vec::new(), OneOrMany::into_vec)
    }

    /// Which of the server's offers is asked for.
    pub fn offer(&self, shared: &Shared) -> Result<usize, ApiError> {
        let wanted = self.kv.clone().unwrap_or_default();
        let fits = |offer: &&super::OfferInfo| {
            let policy = wanted.policy.as_ref();
            policy.is_none_or(|policy| *policy == offer.policy || *policy == offer.label)
                && wanted.keep.is_none_or(|keep| offer.keep == Some(keep))
                && wanted.bytes.is_none_or(|bytes| offer.share <= bytes)
        };
        let found = shared.offers.iter().position(|offer| fits(&offer));
        found.ok_or_else(|| {
            let all: Vec<String> = shared
                .offers
                .iter()
                .map(|offer| format!("{} (bytes {:.2})", offer.label, offer.share))
                .collect();
            let why = format!("it is not available; there is {}", all.join(", "));
            ApiError::field("kv", why)
        })
    }

    /// The requests for the answers that are wanted, of the same prompt.
    pub fn requests(
        &self,
        shared: &Shared,
        prompt: &[u32],
        default_most: Option<usize>,
        logprobs: Option<usize>,
        constraint: &dyn Fn() -> Result<Option<Box<dyn Constraint>>, ApiError>,
    ) -> Result<Vec<Request>, ApiError> {
        if logprobs.is_some_and(|most| most > MOST_LOGPROBS) {
            let why = format!("expected {MOST_LOGPROBS} at most");
            return Err(ApiError::field("top_logprobs", why));
        }
        let most = self
            .max_completion_tokens
            .or(self.max_output_tokens)
            .or(self.max_tokens);
        let most = most
            .map(|most| usize::try_from(most).unwrap_or(usize::MAX))
            .or(default_most);
        let seed = match self.seed {
            Some(seed) => seed as u64,
            None => RandomState::new().build_hasher().finish(),
        };
        let bias = self.bias(shared)?;
        let stop_tokens = match self.ignore_eos {
            Some(true) => Vec::new(),
            _ => shared.subject.tokenizer.stop_tokens().to_vec(),
        };
        (0..self.answers())
            .map(|index| {
                let mut sampling = shared.subject.sampling.clone();
                sampling.seed = seed.wrapping_add(u64::from(index));
                let set = |to: &mut f32, from: Option<f32>| *to = from.unwrap_or(*to);
                set(&mut sampling.temperature, self.temperature);
                set(&mut sampling.top_p, self.top_p);
                set(&mut sampling.min_p, self.min_p);
                set(&mut sampling.repetition_penalty, self.repetition_penalty);
                if let Some(top_k) = self.top_k {
                    sampling.top_k = usize::try_from(top_k).unwrap_or(0);
                }
                Ok(Request {
                    prompt: prompt.to_vec(),
                    goal: Goal::Generate(Box::new(Generate {
                        sampling,
                        max_tokens: most,
                        stop_tokens: stop_tokens.clone(),
                        bias: bias.clone(),
                        presence_penalty: self.presence_penalty.unwrap_or(0.0),
                        frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
                        logprobs,
                        constraint: constraint()?,
                    })),
                    priority: self.priority.unwrap_or(0),
                    session: self.session.clone(),
                })
            })
            .collect()
    }

    fn bias(&self, shared: &Shared) -> Result<Vec<(u32, f32)>, ApiError> {
        let vocabulary = shared.offers.first().map_or(0, |offer| offer.vocabulary);
        let all = self.logit_bias.iter().flatten();
        all.map(|(token, &bias)| {
            let wrong = |why: String| ApiError::field("logit_bias", why);
            let id = token.parse::<u32>().ok().filter(|id| *id < vocabulary);
            let id = id.ok_or_else(|| wrong(format!("there is no token {token:?}")))?;
            if !(-100.0..=100.0).contains(&bias) {
                return Err(wrong(format!("{bias} is not between -100 and 100")));
            }
            Ok((id, bias))
        })
        .collect()
    }

    /// The constraint that `response_format`, or the `format` of the responses interface, asks for.
    pub fn schema(&self, format: Option<&Value>) -> Result<Option<Value>, ApiError> {
        let Some(format) = format.filter(|format| !format.is_null()) else {
            return Ok(None);
        };
        let wrong = |why: &str| ApiError::field("response_format", why);
        match format["type"].as_str() {
            Some("text") => Ok(None),
            Some("json_object") => Ok(Some(serde_json::json!({"type": "object"}))),
            Some("json_schema") => {
                let schema = format["json_schema"].get("schema").or(format.get("schema"));
                let schema = schema.filter(|schema| schema.is_object());
                Ok(Some(
                    schema.ok_or_else(|| wrong("there is no schema"))?.clone(),
                ))
            }
            Some(other) => Err(wrong(&format!("there is no type {other:?}"))),
            None => Err(wrong("it has no type")),
        }
    }
}

/// Whether a name serves for a session: it becomes a part of a file's name.
pub fn session_name(name: &str) -> Result<(), String> {
    let fits = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    match (1..=64).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('.') {
        true => Ok(()),
        false => Err(format!(
            "{name:?} is no name: expected 1 to 64 letters, digits, dots, dashes and underscores, no dot first"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: Value) -> Result<(), String> {
        let params: Params = serde_json::from_value(value).map_err(|error| error.to_string())?;
        params.check().map_err(|error| error.message)
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for fine in [
            json!({}),
            json!({"user": "x", "echo": false, "suffix": null, "best_of": 1, "modalities": ["text"]}),
            json!({"temperature": 0, "n": 2, "top_k": -1, "stop": ["a", "b"]}),
        ] {
            assert_eq!(check(fine.clone()), Ok(()), "{fine}");
        }
        for (wrong, what) in [
            (json!({"echo": true}), "echo"),
            (json!({"functions": [{}]}), "functions"),
            (json!({"best_of": 3}), "best_of"),
            (json!({"modalities": ["audio"]}), "modalities"),
            (json!({"temperature": -1}), "temperature"),
            (json!({"n": 0}), "n: "),
            (json!({"stop": vec!["a"; 17]}), "stop"),
            (json!({"session": "../x"}), "session"),
            (json!({"session": "a", "n": 2}), "n: "),
            (json!({"kv": {"colour": "red"}}), "colour"),
            (json!({"presence_penalty": 3}), "presence_penalty"),
        ] {
            let error = check(wrong.clone()).expect_err("it is wrong");
            assert!(error.contains(what), "{wrong}: {error}");
        }
    }

    #[test]
    fn formats_are_schemas() {
        let params = Params::default();
        let of = |format: Value| params.schema(Some(&format));
        assert_eq!(of(json!({"type": "text"})), Ok(None));
        assert_eq!(
            of(json!({"type": "json_object"})),
            Ok(Some(json!({"type": "object"})))
        );
        let schema = json!({"type": "object", "properties": {}});
        let chat = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        assert_eq!(of(chat), Ok(Some(schema.clone())));
        let responses = json!({"type": "json_schema", "name": "x", "schema": schema});
        assert_eq!(of(responses), Ok(Some(schema)));
        assert!(of(json!({"type": "json_schema"})).is_err());
        assert!(of(json!({"type": "xml"})).is_err());
    }
}
