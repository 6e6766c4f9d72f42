//! Writes small models with seeded weights as Hugging Face directories.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use half::{bf16, f16};
use safetensors::tensor::{Dtype as StoredType, TensorView};
use serde_json::{Value, json};

/// Begins a message.
pub const START: u32 = 256;
/// Ends a message.
pub const END: u32 = 257;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

/// What a model is.
#[derive(Clone, Debug)]
pub struct Spec {
    pub architecture: &'static str,
    pub layers: usize,
    pub width: usize,
    pub inner: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocabulary: u32,
    pub bias: bool,
    pub head_norm: bool,
    pub tied: bool,
    /// Whether an output matrix lies in the file though config.json says that the embedding is it.
    pub spare_head: bool,
    pub rope_scaling: Option<Value>,
    pub dtype: Dtype,
    pub shards: usize,
    pub context: usize,
    /// What config.json says about the width where that is not true.
    pub stated_width: Option<usize>,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            architecture: "llama",
            layers: 2,
            width: 64,
            inner: 96,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocabulary: 300,
            bias: false,
            head_norm: false,
            tied: true,
            spare_head: false,
            rope_scaling: None,
            dtype: Dtype::F16,
            shards: 3,
            context: 256,
            stated_width: None,
        }
    }
}

/// Weights by their names: shape, and values that f16 and bf16 hold exactly.
pub type Weights = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// A directory that is removed when it is dropped.
pub struct Directory {
    folder: tempfile::TempDir,
    pub weights: Weights,
}

impl Directory {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a model with config.json, weights, tokenizer.json, tokenizer_config.json and generation_config.json.
    pub fn write(spec: &Spec) -> Result<Directory> {
        let folder = tempfile::tempdir()?;
        let weights = weights(spec);
        let save =
            |name: &str, value: &Value| std::fs::write(folder.path().join(name), value.to_string());
        save("config.json", &config(spec))?;
        save("tokenizer.json", &tokenizer())?;
        let template = "{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' + m['content'] + '<|end|>' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}";
        save(
            "tokenizer_config.json",
            &json!({"chat_template": template, "eos_token": {"content": "<|end|>"}}),
        )?;
        save(
            "generation_config.json",
            &json!({"temperature": 0.25, "top_k": 7, "eos_token_id": [END]}),
        )?;
        write_weights(spec, &weights, folder.path())?;
        Ok(Directory { folder, weights })
    }
}

/// Multiples of 1/512 below 0.2, and norms near 1: exact in every type.
fn weights(spec: &Spec) -> Weights {
    let mut state = 5u64;
    let mut integer = |limit: i64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as i64 % (2 * limit + 1) - limit
    };
    let mut weights = Weights::new();
    let mut add = |name: String, shape: &[usize], norm: bool| {
        let count = shape.iter().product();
        let value = |integer: i64| {
            if norm {
                1.0 + integer as f64 / 128.0
            } else {
                integer as f64 / 512.0
            }
        };
        let values = (0..count)
            .map(|_| value(integer(if norm { 30 } else { 100 })))
            .collect();
        weights.insert(name, (shape.to_vec(), values));
    };
    let (width, q, kv) = (
        spec.width,
        spec.heads * spec.head_dim,
        spec.kv_heads * spec.head_dim,
    );
    let vocabulary = spec.vocabulary as usize;
    add(
        "model.embed_tokens.weight".into(),
        &[vocabulary, width],
        false,
    );
    if !spec.tied || spec.spare_head {
        add("lm_head.weight".into(), &[vocabulary, width], false);
    }
    add("model.norm.weight".into(), &[width], true);
    for layer in 0..spec.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        add(name("input_layernorm.weight"), &[width], true);
        add(name("post_attention_layernorm.weight"), &[width], true);
        for (part, rows) in [("q", q), ("k", kv), ("v", kv)] {
            add(
                name(&format!("self_attn.{part}_proj.weight")),
                &[rows, width],
                false,
            );
            if spec.bias {
                add(name(&format!("self_attn.{part}_proj.bias")), &[rows], false);
            }
        }
        if spec.head_norm {
            add(name("self_attn.q_norm.weight"), &[spec.head_dim], true);
            add(name("self_attn.k_norm.weight"), &[spec.head_dim], true);
        }
        add(name("self_attn.o_proj.weight"), &[width, q], false);
        add(name("mlp.gate_proj.weight"), &[spec.inner, width], false);
        add(name("mlp.up_proj.weight"), &[spec.inner, width], false);
        add(name("mlp.down_proj.weight"), &[width, spec.inner], false);
    }
    weights
}

fn config(spec: &Spec) -> Value {
    let mut config = json!({
        "model_type": spec.architecture,
        "num_hidden_layers": spec.layers,
        "hidden_size": spec.stated_width.unwrap_or(spec.width),
        "intermediate_size": spec.inner,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocabulary,
        "max_position_embeddings": spec.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000.0,
        "hidden_act": "silu",
        "attention_bias": spec.bias,
        "tie_word_embeddings": spec.tied,
    });
    if let Some(scaling) = &spec.rope_scaling {
        config["rope_scaling"] = scaling.clone();
    }
    config
}

/// A byte-level vocabulary: each byte is a token, and two control tokens.
fn tokenizer() -> Value {
    let plain = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let spelt = |byte: u32| {
        if plain(byte) {
            Some(byte)
        } else {
            others.next()
        }
    };
    let letters = (0..256).filter_map(spelt).filter_map(char::from_u32);
    let vocabulary: serde_json::Map<String, Value> = letters
        .enumerate()
        .map(|(id, letter)| (letter.to_string(), id.into()))
        .collect();
    let control = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "added_tokens": [control(START, "<|start|>"), control(END, "<|end|>")],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    })
}

fn write_weights(spec: &Spec, weights: &Weights, folder: &Path) -> Result<()> {
    let bytes = |value: f64| match spec.dtype {
        Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
    };
    let stored = match spec.dtype {
        Dtype::F32 => StoredType::F32,
        Dtype::F16 => StoredType::F16,
        Dtype::Bf16 => StoredType::BF16,
    };
    let encoded: BTreeMap<&String, Vec<u8>> = weights
        .iter()
        .map(|(name, (_, values))| {
            (
                name,
                values.iter().flat_map(|&value| bytes(value)).collect(),
            )
        })
        .collect();
    let mut map = serde_json::Map::new();
    for shard in 0..spec.shards {
        let file = match spec.shards {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
        };
        let mut views = Vec::new();
        for (name, (shape, _)) in weights.iter().skip(shard).step_by(spec.shards) {
            views.push((
                name,
                TensorView::new(stored, shape.clone(), &encoded[name])?,
            ));
            map.insert(name.clone(), file.clone().into());
        }
        std::fs::write(folder.join(file), safetensors::serialize(views, None)?)?;
    }
    if spec.shards > 1 {
        let index = json!({"metadata": {}, "weight_map": map});
        std::fs::write(
            folder.join("model.safetensors.index.json"),
            index.to_string(),
        )?;
    }
    Ok(())
}
