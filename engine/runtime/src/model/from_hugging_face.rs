//! What a Hugging Face directory says about its model.

use longwave_contract::kv::RowShape;
use serde_json::Value;

use super::config::{Architecture, ModelConfig, RopeScaling};
use crate::error::Error;
use crate::format::HfDirectory;
use crate::sample::SamplingParams;
use crate::text::{ChatTemplate, Tokenizer};

/// The fields of one JSON object, with errors that name file and field.
struct Fields<'a> {
    file: String,
    value: &'a Value,
}

impl<'a> Fields<'a> {
    fn fault(&self, field: &str, why: impl ToString) -> Error {
        Error::Model {
            file: self.file.clone(),
            field: field.to_owned(),
            why: why.to_string(),
        }
    }

    /// A field that is there and not null.
    fn find(&self, field: &str) -> Option<&'a Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    fn find_u32(&self, field: &str) -> Result<Option<u32>, Error> {
        let convert = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        self.find(field)
            .map(|value| {
                convert(value).ok_or_else(|| {
                    self.fault(
                        field,
                        format!("expected an integer from 0 to 2^32 - 1, found {value}"),
                    )
                })
            })
            .transpose()
    }

    fn find_f64(&self, field: &str) -> Result<Option<f64>, Error> {
        self.find(field)
            .map(|value| {
                value
                    .as_f64()
                    .ok_or_else(|| self.fault(field, format!("expected a number, found {value}")))
            })
            .transpose()
    }

    fn u32(&self, field: &str) -> Result<u32, Error> {
        self.find_u32(field)?
            .ok_or_else(|| self.fault(field, "is missing"))
    }

    fn is_true(&self, field: &str) -> bool {
        self.find(field).and_then(Value::as_bool).unwrap_or(false)
    }
}

pub(super) fn config(directory: &HfDirectory) -> Result<ModelConfig, Error> {
    let file = directory.path().join("config.json").display().to_string();
    config_of(file, &directory.config)
}

/// What the content of a `config.json` says; `file` is for messages.
pub(super) fn config_of(file: String, value: &Value) -> Result<ModelConfig, Error> {
    let fields = Fields { file, value };
    let kind = fields
        .find("model_type")
        .and_then(Value::as_str)
        .unwrap_or("");
    // Mistral's layers are Llama's.
    let architecture = Architecture::from_name(if kind == "mistral" { "llama" } else { kind })
        .ok_or_else(|| {
            let known = Architecture::ALL.map(Architecture::name).join(", ");
            fields.fault(
                "model_type",
                format!("`{kind}` is not supported; supported are {known}, mistral"),
            )
        })?;
    let activation = fields
        .find("hidden_act")
        .and_then(Value::as_str)
        .unwrap_or("silu");
    if activation != "silu" {
        return Err(fields.fault(
            "hidden_act",
            format!("`{activation}` is not supported, only silu"),
        ));
    }
    if fields.is_true("mlp_bias") {
        return Err(fields.fault(
            "mlp_bias",
            "biases in the feed-forward layer are not supported",
        ));
    }
    let (width, heads) = (
        fields.u32("hidden_size")?,
        fields.u32("num_attention_heads")?,
    );
    let default_dim = width.checked_div(heads).unwrap_or(0);
    let trained = fields.u32("max_position_embeddings")?;
    let slides = match fields.find("use_sliding_window") {
        Some(flag) => flag.as_bool().unwrap_or(false),
        None => true,
    };
    // Within its window, a sliding-window model attends densely.
    let window = fields
        .find_u32("sliding_window")?
        .filter(|&window| slides && window > 0);
    let (rope_base, rope_scaling) = rope(&fields, trained)?;
    let reach = rope_scaling.context(trained);
    Ok(ModelConfig {
        architecture,
        layers: fields.u32("num_hidden_layers")?,
        width,
        inner: fields.u32("intermediate_size")?,
        heads,
        shape: RowShape {
            kv_heads: fields.find_u32("num_key_value_heads")?.unwrap_or(heads),
            head_dim: fields.find_u32("head_dim")?.unwrap_or(default_dim),
        },
        vocabulary: fields.u32("vocab_size")?,
        context: window.map_or(reach, |window| window.min(reach)),
        epsilon: fields.find_f64("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope_base,
        rope_scaling,
        rope_factors: None,
        tied: fields.find("tie_word_embeddings").and_then(Value::as_bool),
    })
}

/// Base and scaling: `rope_theta` and `rope_scaling`, or both inside `rope_parameters` as newer files have them.
fn rope(config: &Fields<'_>, trained: u32) -> Result<(f64, RopeScaling), Error> {
    let empty = Value::Null;
    let value = config
        .find("rope_scaling")
        .or_else(|| config.find("rope_parameters"))
        .unwrap_or(&empty);
    let fields = Fields {
        file: config.file.clone(),
        value,
    };
    let base = match config.find_f64("rope_theta")? {
        Some(base) => base,
        None => fields.find_f64("rope_theta")?.unwrap_or(10_000.0),
    };
    if fields
        .find_f64("partial_rotary_factor")?
        .or(config.find_f64("partial_rotary_factor")?)
        .is_some_and(|factor| factor != 1.0)
    {
        return Err(config.fault(
            "partial_rotary_factor",
            "only full rotary embeddings are supported",
        ));
    }
    let kind = fields
        .find("rope_type")
        .or_else(|| fields.find("type"))
        .and_then(Value::as_str)
        .unwrap_or("default");
    let number = |field: &str| {
        fields
            .find_f64(field)?
            .ok_or_else(|| fields.fault(&format!("rope_scaling.{field}"), "is missing"))
    };
    let factor = || -> Result<f64, Error> {
        let factor = number("factor")?;
        if factor < 1.0 {
            return Err(fields.fault(
                "rope_scaling.factor",
                format!("is {factor}, expected 1 or more"),
            ));
        }
        Ok(factor)
    };
    let original = fields.find_f64("original_max_position_embeddings")?;
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "llama3" => RopeScaling::Llama3 {
            factor: factor()?,
            low_frequency_factor: number("low_freq_factor")?,
            high_frequency_factor: number("high_freq_factor")?,
            original_context: number("original_max_position_embeddings")?,
        },
        "yarn" => RopeScaling::Yarn {
            factor: factor()?,
            original_context: original.unwrap_or(f64::from(trained)),
            beta_fast: fields.find_f64("beta_fast")?.unwrap_or(32.0),
            beta_slow: fields.find_f64("beta_slow")?.unwrap_or(1.0),
            attention_factor: fields.find_f64("attention_factor")?,
        },
        other => {
            let why =
                format!("`{other}` is not supported; supported are default, linear, llama3, yarn");
            return Err(fields.fault("rope_scaling.rope_type", why));
        }
    };
    Ok((base, scaling))
}

pub(super) fn tokenizer(directory: &HfDirectory) -> Result<Tokenizer, Error> {
    let Some(path) = &directory.tokenizer else {
        let file = directory.path().display().to_string();
        return Err(Error::Model {
            file,
            field: "tokenizer.json".into(),
            why: "is missing".into(),
        });
    };
    let mut tokenizer = Tokenizer::from_file(path)?;
    let ids = |value: Option<&Value>| -> Vec<u32> {
        let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match value {
            Some(Value::Array(items)) => items.iter().filter_map(number).collect(),
            Some(value) => number(value).into_iter().collect(),
            None => Vec::new(),
        }
    };
    let generation = directory
        .generation_config
        .as_ref()
        .and_then(|config| config.get("eos_token_id"))
        .filter(|ids| !ids.is_null());
    let mut stop = ids(generation.or_else(|| directory.config.get("eos_token_id")));
    let named = directory
        .tokenizer_config
        .as_ref()
        .map(|config| special(config, "eos_token"))
        .unwrap_or_default();
    stop.extend(tokenizer.id_of(&named));
    tokenizer.add_stop_tokens(&stop);
    Ok(tokenizer)
}

/// A special token's text: a string, or an object with `content`.
fn special(config: &Value, key: &str) -> String {
    let value = config.get(key);
    let text = value
        .and_then(Value::as_str)
        .or_else(|| value?.get("content")?.as_str());
    text.unwrap_or("").to_owned()
}

pub(super) fn chat_template(directory: &HfDirectory) -> Result<Option<ChatTemplate>, Error> {
    let empty = Value::Null;
    let config = directory.tokenizer_config.as_ref().unwrap_or(&empty);
    let listed = |templates: &Value| {
        let named =
            |template: &&Value| template.get("name").and_then(Value::as_str) == Some("default");
        templates
            .as_array()?
            .iter()
            .find(named)?
            .get("template")?
            .as_str()
            .map(str::to_owned)
    };
    let inside = config
        .get("chat_template")
        .and_then(|value| value.as_str().map(str::to_owned).or_else(|| listed(value)));
    let source = match &directory.chat_template {
        Some(path) => {
            let file = path.display().to_string();
            let text = std::fs::read_to_string(path);
            Some(text.map_err(|why| Error::Model {
                file,
                field: "chat template".into(),
                why: why.to_string(),
            })?)
        }
        None => inside,
    };
    let Some(source) = source else {
        return Ok(None);
    };
    Ok(Some(ChatTemplate::new(
        &source,
        &special(config, "bos_token"),
        &special(config, "eos_token"),
    )?))
}

pub(super) fn sampling(directory: &HfDirectory) -> SamplingParams {
    let mut params = SamplingParams::default();
    let Some(config) = directory.generation_config.as_ref() else {
        return params;
    };
    let float = |key: &str| {
        config
            .get(key)
            .and_then(Value::as_f64)
            .map(|value| value as f32)
    };
    params.temperature = float("temperature").unwrap_or(params.temperature);
    params.top_p = float("top_p").unwrap_or(params.top_p);
    params.min_p = float("min_p").unwrap_or(params.min_p);
    params.repetition_penalty = float("repetition_penalty").unwrap_or(params.repetition_penalty);
    if let Some(top_k) = config.get("top_k").and_then(Value::as_u64) {
        params.top_k = usize::try_from(top_k).unwrap_or(0);
    }
    if config.get("do_sample").and_then(Value::as_bool) == Some(false) {
        params.temperature = 0.0;
    }
    params
}

pub(super) fn metadata(directory: &HfDirectory) -> Vec<(String, String)> {
    let entries = directory.config.as_object().into_iter().flatten();
    entries
        .map(|(key, value)| (key.clone(), value.to_string().chars().take(80).collect()))
        .collect()
}
