//! What a decoder model is: its dimensions and its variations.

use std::fmt;

use longwave_contract::kv::RowShape;

use super::from_hugging_face;
use crate::error::Error;

/// A model family whose layers this crate can record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2 and 3, and what follows them (SmolLM2, Mistral without a sliding window).
    Llama,
    /// Qwen 2 and 2.5: biases on the query, key and value projections.
    Qwen2,
    /// Qwen 3: a norm on each query and key head, no biases.
    Qwen3,
}

impl Architecture {
    /// Every family, for messages.
    pub const ALL: [Architecture; 3] = [
        Architecture::Llama,
        Architecture::Qwen2,
        Architecture::Qwen3,
    ];

    /// The name, as `general.architecture` of a GGUF file and `model_type` of a config.json give it.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    /// The family of a name.
    pub fn from_name(name: &str) -> Option<Architecture> {
        Self::ALL
            .into_iter()
            .find(|architecture| architecture.name() == name)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the rotary frequencies are changed for contexts beyond the one of the first training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between them.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_frequency_factor` are divided.
        low_frequency_factor: f64,
        /// Wavelengths below `original_context / high_frequency_factor` are kept.
        high_frequency_factor: f64,
        /// The context of the first training.
        original_context: f64,
    },
    /// YaRN (arXiv 2309.00071): a ramp over dimensions between interpolation and extrapolation, and a factor on attention.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// The context of the first training.
        original_context: f64,
        /// Rotations within the original context above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is divided.
        beta_slow: f64,
        /// Multiplies queries and keys; where the model gives none, `0.1 ln(factor) + 1`.
        attention_factor: Option<f64>,
    },
}

impl RopeScaling {
    /// The longest context of a model that was trained with `trained`: YaRN is made to reach `factor` times its original one.
    pub(super) fn context(&self, trained: u32) -> u32 {
        match *self {
            RopeScaling::Yarn {
                factor,
                original_context,
                ..
            } => trained.max((factor * original_context) as u32),
            _ => trained,
        }
    }
}

/// The dimensions of a decoder model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Width of the feed-forward layer.
    pub inner: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads, and the elements of each.
    pub shape: RowShape,
    /// Tokens of the vocabulary: rows of the embedding.
    pub vocabulary: u32,
    /// The longest context of the training.
    pub context: u32,
    /// Added to mean squares.
    pub epsilon: f32,
    /// The rotary base.
    pub rope_base: f64,
    /// Changes of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Divisors of each rotary frequency, one for each of the `head_dim / 2` pairs, where the file gives them (GGUF files of Llama 3.1 do,
    /// instead of parameters).
    pub rope_factors: Option<Vec<f32>>,
    /// Whether the output matrix is the embedding; `None` where the files do not say: then it is, unless they hold an output matrix.
    pub tied: Option<bool>,
}

impl ModelConfig {
    /// Whether the family's keys have a norm.
    pub fn has_key_norms(&self) -> bool {
        self.architecture == Architecture::Qwen3
    }

    /// Width of the queries of all heads.
    pub const fn q_width(&self) -> u32 {
        self.heads * self.shape.head_dim
    }

    /// Bytes of the dense cache for one token, all layers.
    pub const fn dense_bytes_per_token(&self) -> u64 {
        self.shape.raw_bytes() * self.layers as u64
    }

    /// What taking in a prompt's token at `position` costs, in multiply-adds of one at its beginning: attention grows with the context, matrix
    /// products do not.
    pub fn row_cost(&self, position: u32) -> f64 {
        let of = |rows: u32, cols: u32| f64::from(rows) * f64::from(cols);
        let projections = of(2 * self.q_width() + 2 * self.shape.width(), self.width);
        let products = projections + 3.0 * of(self.inner, self.width);
        1.0 + 2.0 * of(self.q_width(), position) / products
    }

    /// Reads the content of a Hugging Face `config.json`; `file` is for messages. Weights are not looked for.
    ///
    /// # Errors
    /// It is no JSON, the architecture is unknown, or a field is missing or out of range.
    pub fn from_json(file: &str, text: &str) -> Result<Self, Error> {
        let fault = |field: &str, why: String| Error::Model {
            file: file.to_owned(),
            field: field.to_owned(),
            why,
        };
        let value =
            serde_json::from_str(text).map_err(|error| fault("content", error.to_string()))?;
        let config = from_hugging_face::config_of(file.to_owned(), &value)?;
        config.check().map_err(|why| fault("dimensions", why))?;
        Ok(config)
    }

    /// Refuses dimensions that no model has, before they are used as sizes.
    pub(super) fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u32, limit: u32| {
            if value == 0 || value > limit {
                return Err(format!("{name} is {value}, expected 1 to {limit}"));
            }
            Ok(())
        };
        within("the number of layers", self.layers, 1024)?;
        within("the width", self.width, 1 << 17)?;
        within("the feed-forward width", self.inner, 1 << 20)?;
        within("the number of heads", self.heads, 1024)?;
        within("the number of key heads", self.shape.kv_heads, 1024)?;
        within("the head dimension", self.shape.head_dim, 512)?;
        within("the vocabulary", self.vocabulary, 1 << 22)?;
        within("the context", self.context, 1 << 28)?;
        if !self.heads.is_multiple_of(self.shape.kv_heads) {
            return Err(format!(
                "{} heads are not a multiple of {} key heads",
                self.heads, self.shape.kv_heads
            ));
        }
        if !self.shape.head_dim.is_multiple_of(8) {
            return Err(format!(
                "the head dimension is {}, expected a multiple of 8",
                self.shape.head_dim
            ));
        }
        for (name, value) in [
            ("the width", self.width),
            ("the feed-forward width", self.inner),
        ] {
            if !value.is_multiple_of(32) {
                return Err(format!("{name} is {value}, expected a multiple of 32"));
            }
        }
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            return Err(format!("the norm epsilon is {}", self.epsilon));
        }
        if !(self.rope_base.is_finite() && self.rope_base > 1.0) {
            return Err(format!("the rotary base is {}", self.rope_base));
        }
        if let Some(factors) = &self.rope_factors {
            let pairs = self.shape.head_dim as usize / 2;
            if factors.len() != pairs || factors.iter().any(|f| !(f.is_finite() && *f > 0.0)) {
                return Err(format!(
                    "the rotary factors are not {pairs} positive numbers"
                ));
            }
        }
        Ok(())
    }
}
