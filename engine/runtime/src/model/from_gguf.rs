//! What a GGUF file says about its model.

use longwave_contract::kv::RowShape;

use super::config::{Architecture, ModelConfig, RopeScaling};
use crate::error::Error;
use crate::format::Gguf;
use crate::format::gguf::Value;
use crate::sample::SamplingParams;
use crate::text::{ChatTemplate, GgufVocabulary, Tokenizer};

fn fault(gguf: &Gguf, field: impl ToString, why: impl ToString) -> Error {
    let file = gguf
        .files()
        .next()
        .map(|file| file.path().display().to_string())
        .unwrap_or_default();
    Error::Model {
        file,
        field: field.to_string(),
        why: why.to_string(),
    }
}

pub(super) fn config(gguf: &Gguf) -> Result<ModelConfig, Error> {
    let metadata = gguf.metadata();
    let name = gguf.architecture()?;
    let architecture = Architecture::from_name(name).ok_or_else(|| {
        let known = Architecture::ALL.map(Architecture::name).join(", ");
        fault(
            gguf,
            "general.architecture",
            format!("`{name}` is not supported; supported are {known}"),
        )
    })?;
    let key = |suffix: &str| format!("{name}.{suffix}");
    let number = |suffix: &str| metadata.get_u32(&key(suffix));

    if metadata.find_u32(&key("expert_count"))?.unwrap_or(0) > 0 {
        return Err(fault(
            gguf,
            key("expert_count"),
            "mixtures of experts are not supported",
        ));
    }
    let (width, heads) = (number("embedding_length")?, number("attention.head_count")?);
    let kv_heads = metadata
        .find_u32(&key("attention.head_count_kv"))?
        .unwrap_or(heads);
    let default_dim = width.checked_div(heads).unwrap_or(0);
    let head_dim = metadata
        .find_u32(&key("attention.key_length"))?
        .unwrap_or(default_dim);
    let value_dim = metadata
        .find_u32(&key("attention.value_length"))?
        .unwrap_or(head_dim);
    let rotary_dim = metadata
        .find_u32(&key("rope.dimension_count"))?
        .unwrap_or(head_dim);
    for (suffix, found) in [
        ("attention.value_length", value_dim),
        ("rope.dimension_count", rotary_dim),
    ] {
        if found != head_dim {
            return Err(fault(
                gguf,
                key(suffix),
                format!("is {found}; only the head dimension, {head_dim}, is supported"),
            ));
        }
    }
    let trained = number("context_length")?;
    // Within its window, a sliding-window model attends densely.
    let window = metadata
        .find_u32(&key("attention.sliding_window"))?
        .filter(|&window| window > 0);
    let embedding = gguf.tensor("token_embd.weight")?;
    let vocabulary = u32::try_from(embedding.rows()).map_err(|_| {
        fault(
            gguf,
            "tensor `token_embd.weight`",
            format!("has {} rows", embedding.rows()),
        )
    })?;
    let rope_factors = match gguf.find("rope_freqs.weight") {
        None => None,
        Some(info) => {
            let rows = gguf.rows(&info.name)?;
            let mut factors = vec![0.0f32; rows.cols() as usize];
            rows.dequantize(0, &mut factors)?;
            Some(factors)
        }
    };
    let rope_scaling = rope_scaling(gguf, name, trained)?;
    let reach = rope_scaling.context(trained);
    Ok(ModelConfig {
        architecture,
        layers: number("block_count")?,
        width,
        inner: number("feed_forward_length")?,
        heads,
        shape: RowShape { kv_heads, head_dim },
        vocabulary,
        context: window.map_or(reach, |window| window.min(reach)),
        epsilon: metadata.get_f32(&key("attention.layer_norm_rms_epsilon"))?,
        rope_base: metadata
            .find_f32(&key("rope.freq_base"))?
            .map_or(10_000.0, f64::from),
        rope_scaling,
        rope_factors,
        tied: None,
    })
}

fn rope_scaling(gguf: &Gguf, architecture: &str, trained: u32) -> Result<RopeScaling, Error> {
    let metadata = gguf.metadata();
    let key = |suffix: &str| format!("{architecture}.rope.scaling.{suffix}");
    let float = |suffix: &str| Ok::<_, Error>(metadata.find_f32(&key(suffix))?.map(f64::from));
    // Older files have the factor alone, under either name, and mean a linear scaling.
    let old = metadata.find_f32(&format!("{architecture}.rope.scale_linear"))?;
    let given = float("factor")?.or(old.map(f64::from));
    let scales = given.is_some_and(|factor| factor != 0.0 && factor != 1.0);
    let default = if scales { "linear" } else { "none" };
    let kind = metadata.find_str(&key("type"))?.unwrap_or(default);
    let factor = || -> Result<f64, Error> {
        let factor = given.ok_or_else(|| fault(gguf, key("factor"), "is missing"))?;
        if factor < 1.0 {
            return Err(fault(
                gguf,
                key("factor"),
                format!("is {factor}, expected 1 or more"),
            ));
        }
        Ok(factor)
    };
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "yarn" => Ok(RopeScaling::Yarn {
            factor: factor()?,
            original_context: metadata
                .find_u32(&key("original_context_length"))?
                .map_or(f64::from(trained), f64::from),
            beta_fast: float("yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: float("yarn_beta_slow")?.unwrap_or(1.0),
            // Here it multiplies the factor that follows from the scaling; in config.json it replaces it.
            attention_factor: float("attn_factor")?
                .map(|extra| Ok::<_, Error>(extra * (0.1 * factor()?.ln() + 1.0)))
                .transpose()?,
        }),
        other => Err(fault(
            gguf,
            key("type"),
            format!("`{other}` is not supported; supported are none, linear, yarn"),
        )),
    }
}

pub(super) fn tokenizer(gguf: &Gguf) -> Result<Tokenizer, Error> {
    let metadata = gguf.metadata();
    let key = |suffix: &str| format!("tokenizer.ggml.{suffix}");
    let id = |suffix: &str| metadata.find_u32(&key(suffix));
    let tokens = metadata.get_array_str(&key("tokens"))?.to_vec();
    let vocabulary = GgufVocabulary {
        model: metadata.get_str(&key("model"))?.to_owned(),
        pre: metadata.find_str(&key("pre"))?.map(str::to_owned),
        token_types: metadata
            .find_array_i32(&key("token_type"))?
            .unwrap_or_default(),
        merges: metadata
            .find_array_str(&key("merges"))?
            .unwrap_or_default()
            .to_vec(),
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        unknown: id("unknown_token_id")?,
        add_bos: metadata.find_bool(&key("add_bos_token"))?,
        chat_template: metadata
            .find_str("tokenizer.chat_template")?
            .map(str::to_owned),
        tokens,
    };
    Ok(Tokenizer::from_gguf(&vocabulary)?)
}

pub(super) fn chat_template(gguf: &Gguf) -> Result<Option<ChatTemplate>, Error> {
    let metadata = gguf.metadata();
    let Some(source) = metadata.find_str("tokenizer.chat_template")? else {
        return Ok(None);
    };
    let tokens = metadata.get_array_str("tokenizer.ggml.tokens")?;
    let token = |key: &str| -> Result<&str, Error> {
        let id = metadata.find_u32(key)?;
        Ok(id
            .and_then(|id| tokens.get(id as usize))
            .map_or("", String::as_str))
    };
    let (bos, eos) = (
        token("tokenizer.ggml.bos_token_id")?,
        token("tokenizer.ggml.eos_token_id")?,
    );
    Ok(Some(ChatTemplate::new(source, bos, eos)?))
}

/// GGUF has optional keys for the sampling that a model's makers advise.
pub(super) fn sampling(gguf: &Gguf) -> SamplingParams {
    let float = |key: &str| gguf.metadata().find_f32(key).ok().flatten();
    let mut params = SamplingParams::default();
    if let Some(temperature) = float("general.sampling.temp") {
        params.temperature = temperature;
    }
    if let Some(top_p) = float("general.sampling.top_p") {
        params.top_p = top_p;
    }
    if let Some(top_k) = gguf
        .metadata()
        .find_u32("general.sampling.top_k")
        .ok()
        .flatten()
    {
        params.top_k = top_k as usize;
    }
    params
}

pub(super) fn metadata(gguf: &Gguf) -> Vec<(String, String)> {
    let show = |value: &Value| match value {
        Value::Str(text) => text.chars().take(80).collect(),
        Value::Array(items) => format!("{} of {}", items.len(), value.type_name()),
        number => format!("{number:?}"),
    };
    gguf.metadata()
        .iter()
        .map(|(key, value)| (key.to_owned(), show(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::GgufWriter;

    /// What a file with these keys below `llama.rope.` says.
    fn scaling(keys: &[(&str, Value)]) -> Result<RopeScaling, String> {
        let writer = keys
            .iter()
            .fold(GgufWriter::new("llama"), |writer, (key, value)| {
                writer.with(&format!("llama.rope.{key}"), value.clone())
            });
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, writer.to_bytes()).map_err(|error| error.to_string())?;
        let gguf = Gguf::open(&path).map_err(|error| error.to_string())?;
        rope_scaling(&gguf, "llama", 1024).map_err(|error| error.to_string())
    }

    #[test]
    fn a_factor_without_a_type_is_linear() {
        let linear = Ok(RopeScaling::Linear { factor: 4.0 });
        assert_eq!(scaling(&[("scaling.factor", Value::F32(4.0))]), linear);
        assert_eq!(scaling(&[("scale_linear", Value::F32(4.0))]), linear);
        for none in [0.0, 1.0] {
            let found = scaling(&[("scaling.factor", Value::F32(none))]);
            assert_eq!(found, Ok(RopeScaling::None));
        }
        assert_eq!(scaling(&[]), Ok(RopeScaling::None));
        let named = [
            ("scaling.type", Value::Str("none".into())),
            ("scaling.factor", Value::F32(4.0)),
        ];
        assert_eq!(scaling(&named), Ok(RopeScaling::None));
        let error = scaling(&[("scaling.type", Value::Str("linear".into()))]);
        assert!(error.is_err_and(|error| error.contains("scaling.factor")));
    }

    #[test]
    fn an_attention_factor_multiplies_what_yarn_gives_and_the_context_grows() {
        let yarn = |extra: &[(&str, Value)]| {
            let keys = [
                ("scaling.type", Value::Str("yarn".into())),
                ("scaling.factor", Value::F32(4.0)),
            ];
            scaling(&[&keys[..], extra].concat()).expect("it is valid")
        };
        let plain = yarn(&[]);
        assert!(matches!(
            plain,
            RopeScaling::Yarn {
                attention_factor: None,
                ..
            }
        ));
        assert_eq!(plain.context(1024), 4096);
        let RopeScaling::Yarn {
            attention_factor: Some(factor),
            ..
        } = yarn(&[("scaling.attn_factor", Value::F32(0.5))])
        else {
            panic!("it is another scaling");
        };
        assert!((factor - 0.5 * (0.1 * 4f64.ln() + 1.0)).abs() < 1e-9);
    }
}
