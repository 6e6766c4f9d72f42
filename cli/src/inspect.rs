//! `longwave inspect`: what a model is, without loading it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use longwave_runtime::format::TensorInfo;
use longwave_runtime::format::repack::target;
use longwave_runtime::model::{ModelConfig, RopeScaling};
use serde::Serialize;

use crate::args::ModelArguments;
use crate::model::{self, Opened};
use crate::output::{Notes, Output, one_line};
use crate::report::{block, bytes};

/// Describe a model without loading it.
#[derive(Args, Debug)]
pub struct InspectArguments {
    /// An alias, a .gguf file, a directory, ORG/NAME or ORG/NAME:FILE
    pub model: String,
    /// Use models that are on this machine only
    #[arg(long)]
    pub offline: bool,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// List what the files say about themselves
    #[arg(long)]
    pub metadata: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A tensor of the files.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct TensorReport {
    name: String,
    /// Outermost first.
    shape: Vec<u64>,
    /// The element type in the file.
    file_type: &'static str,
    /// The layout on a device.
    device_type: &'static str,
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Report {
    model: String,
    path: String,
    format: &'static str,
    architecture: &'static str,
    parameters: u64,
    layers: u32,
    width: u32,
    inner: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    vocabulary: u32,
    context: u32,
    rope_base: f64,
    rope_scaling: String,
    /// Bytes by element type.
    file_bytes: BTreeMap<&'static str, u64>,
    /// Bytes by layout.
    device_bytes: BTreeMap<&'static str, u64>,
    device_bytes_total: u64,
    kv_bytes_per_token: u64,
    /// What the tokenizer is, or why there is none.
    tokenizer: String,
    /// Whether there is one, or what is wrong with it.
    chat_template: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Vec<(String, String)>>,
}

impl InspectArguments {
    /// Does it.
    ///
    /// # Errors
    /// The model cannot be had or is not supported. A broken tokenizer or chat template is part of the description.
    pub fn execute(&self, notes: &Notes) -> Result<ExitCode> {
        let arguments = ModelArguments {
            model: self.model.clone(),
            offline: self.offline,
        };
        let opened = model::open(&arguments, notes)?;
        let mut report = Report::new(&opened)?;
        if self.tensors {
            report.tensors = Some(opened.source.tensors().map(TensorReport::new).collect());
        }
        if self.metadata {
            report.metadata = Some(opened.source.metadata());
        }
        let mut output = Output::stdout();
        if self.json {
            output.json(&report)?;
        } else {
            output.line(report.text())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl TensorReport {
    fn new(tensor: &TensorInfo) -> Self {
        TensorReport {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            file_type: tensor.element.name(),
            device_type: target(tensor.element, tensor.rank()).name(),
        }
    }
}

/// Bytes of the files' tensors by element type.
fn file_bytes<'t>(tensors: impl Iterator<Item = &'t TensorInfo>) -> BTreeMap<&'static str, u64> {
    let mut by_type: BTreeMap<&'static str, u64> = BTreeMap::new();
    for tensor in tensors {
        let row = tensor.element.row_bytes(tensor.cols()).unwrap_or(0);
        let sum = by_type.entry(tensor.element.name()).or_default();
        *sum = sum.saturating_add(row.saturating_mul(tensor.rows()));
    }
    by_type
}

impl Report {
    fn new(opened: &Opened) -> Result<Self> {
        let source = &opened.source;
        let config: &ModelConfig = source.config();
        let summary = source.summary()?;
        let tokenizer = match source.tokenizer() {
            Ok(tokenizer) => tokenizer_words(tokenizer.stop_tokens()),
            Err(error) => format!("unusable: {error}"),
        };
        let chat_template = match source.chat_template() {
            Ok(Some(_)) => "yes".to_owned(),
            Ok(None) => "no".to_owned(),
            Err(error) => format!("unusable: {error}"),
        };
        Ok(Report {
            model: opened.name.clone(),
            path: source.path().display().to_string(),
            format: if source.is_gguf() {
                "GGUF"
            } else {
                "Hugging Face directory"
            },
            architecture: config.architecture.name(),
            parameters: summary.parameters,
            layers: config.layers,
            width: config.width,
            inner: config.inner,
            heads: config.heads,
            kv_heads: config.shape.kv_heads,
            head_dim: config.shape.head_dim,
            vocabulary: config.vocabulary,
            context: config.context,
            rope_base: config.rope_base,
            rope_scaling: scaling_words(config),
            file_bytes: file_bytes(source.tensors()),
            device_bytes: summary.bytes_by_type,
            device_bytes_total: summary.bytes,
            kv_bytes_per_token: config.dense_bytes_per_token(),
            tokenizer,
            chat_template,
            tensors: None,
            metadata: None,
        })
    }

    fn text(&self) -> String {
        let types = |by_type: &BTreeMap<&'static str, u64>| {
            let parts: Vec<String> = by_type
                .iter()
                .map(|(name, count)| format!("{name} {}", bytes(*count)))
                .collect();
            parts.join(", ")
        };
        let in_context = self
            .kv_bytes_per_token
            .saturating_mul(u64::from(self.context));
        let mut text = block(&[
            ("model", one_line(&self.model)),
            ("path", one_line(&self.path)),
            ("format", self.format.to_owned()),
            (
                "architecture",
                format!(
                    "{}, {:.1} million parameters",
                    self.architecture,
                    self.parameters as f64 / 1e6
                ),
            ),
            ("layers", self.layers.to_string()),
            (
                "width",
                format!("{}, feed-forward {}", self.width, self.inner),
            ),
            (
                "heads",
                format!(
                    "{} query, {} key and value, {} wide",
                    self.heads, self.kv_heads, self.head_dim
                ),
            ),
            ("vocabulary", self.vocabulary.to_string()),
            ("context", self.context.to_string()),
            (
                "rope",
                format!("base {}, {}", self.rope_base, self.rope_scaling),
            ),
            (
                "in the file",
                format!(
                    "{} ({})",
                    bytes(self.file_bytes.values().sum()),
                    types(&self.file_bytes)
                ),
            ),
            (
                "on a device",
                format!(
                    "{} ({})",
                    bytes(self.device_bytes_total),
                    types(&self.device_bytes)
                ),
            ),
            (
                "dense cache",
                format!(
                    "{} a token, {} for the whole context",
                    bytes(self.kv_bytes_per_token),
                    bytes(in_context)
                ),
            ),
            ("tokenizer", one_line(&self.tokenizer)),
            ("chat template", one_line(&self.chat_template)),
        ]);
        for (key, value) in self.metadata.iter().flatten() {
            text.push_str(&format!("\n{}: {}", one_line(key), one_line(value)));
        }
        for tensor in self.tensors.iter().flatten() {
            let shape = tensor
                .shape
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(" x ");
            text.push_str(&format!(
                "\n{:<40} {shape:<16} {:<5} -> {}",
                one_line(&tensor.name),
                tensor.file_type,
                tensor.device_type
            ));
        }
        text
    }
}

/// What there is to say about a tokenizer that works.
fn tokenizer_words(stop_tokens: &[u32]) -> String {
    let stops: Vec<String> = stop_tokens.iter().map(u32::to_string).collect();
    if stops.is_empty() {
        "yes, without stop tokens".into()
    } else {
        format!("yes, stop tokens {}", stops.join(", "))
    }
}

fn scaling_words(config: &ModelConfig) -> String {
    let scaling = match &config.rope_scaling {
        RopeScaling::None => "not scaled".to_owned(),
        RopeScaling::Linear { factor } => format!("linear by {factor}"),
        RopeScaling::Llama3 {
            factor,
            original_context,
            ..
        } => format!("llama3 by {factor} from {original_context} tokens"),
        RopeScaling::Yarn {
            factor,
            original_context,
            ..
        } => format!("yarn by {factor} from {original_context} tokens"),
    };
    match &config.rope_factors {
        Some(factors) => format!("{scaling}, {} factors from the file", factors.len()),
        None => scaling,
    }
}

#[cfg(test)]
mod tests {
    use longwave_runtime::format::GgmlType;

    use super::*;

    fn tensor(name: &str, shape: &[u64], element: GgmlType) -> TensorInfo {
        TensorInfo {
            name: name.into(),
            shape: shape.to_vec(),
            element,
        }
    }

    #[test]
    fn bytes_in_the_file_are_summed_by_type() {
        let tensors = [
            tensor("a", &[2, 32], GgmlType::Q8_0),
            tensor("b", &[64], GgmlType::Q8_0),
            tensor("c", &[4], GgmlType::F32),
        ];
        let found = file_bytes(tensors.iter());
        assert_eq!(found, BTreeMap::from([("Q8_0", 4 * 34), ("F32", 16)]));
    }

    #[test]
    fn a_tokenizer_names_its_stop_tokens() {
        assert_eq!(tokenizer_words(&[2, 0]), "yes, stop tokens 2, 0");
        assert_eq!(tokenizer_words(&[]), "yes, without stop tokens");
    }

    #[test]
    fn a_tensor_says_what_it_becomes() {
        let report = TensorReport::new(&tensor("w", &[2, 256], GgmlType::Q6K));
        assert_eq!((report.file_type, report.device_type), ("Q6_K", "q8g16"));
        assert_eq!(
            TensorReport::new(&tensor("n", &[256], GgmlType::F16)).device_type,
            "f32"
        );
    }
}
