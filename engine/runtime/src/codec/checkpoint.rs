//! Codecs from the checkpoints that DeltaKV's authors publish (section 4; the layout is in section 13 of our notes on it).
//!
//! A checkpoint has an encoder `compress_down` and a decoder `compress_up` for each layer, or one of each for all. It says nothing of where
//! its references come from but what `config.json` may hold; whatever that says must agree with what is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longwave_contract::kv::{ReferenceShape, ScaleRule};
use serde_json::Value;

use super::{Codec, Component, Transform};
use crate::error::Error;
use crate::format::safetensors::{SafetensorsFile, read_json};
use crate::model::ModelConfig;

/// Latents of 4 bits that share a scale and a minimum.
const GROUP: u32 = 32;

/// What DeltaKV's recipes take: every tenth token is a reference, and the mean of four is a base.
const DEFAULT: ReferenceShape = ReferenceShape {
    stride: 10,
    neighbours: 4,
};

/// How latents are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LatentFormat {
    /// Two bytes each.
    #[default]
    F16,
    /// Four bits each, with a scale and a minimum for every 32.
    Q4,
}

/// What a checkpoint does not say, or may be asked to agree with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Tokens from one reference to the next; the checkpoint's, or 10.
    pub stride: Option<u32>,
    /// References of a token; the checkpoint's, or 4.
    pub neighbours: Option<u32>,
    /// How latents are stored.
    pub latents: LatentFormat,
}

/// Whether a path holds a checkpoint rather than a codec that was calibrated: a directory, or a file with an encoder of one.
///
/// # Errors
/// The file is damaged.
pub fn is_checkpoint(path: &Path) -> Result<bool, Error> {
    if path.is_dir() {
        return Ok(true);
    }
    let file = SafetensorsFile::open(path)?;
    let found = file
        .tensors()
        .any(|info| info.name.contains("compress_down"));
    Ok(found)
}

/// The codecs of a checkpoint, one for each layer of the model; `None` for layers that it does not have.
///
/// # Errors
/// The checkpoint is damaged, is for a model of other dimensions, disagrees with what is asked for, or holds a network that is not run. Each
/// message names the file and the tensor or key.
pub fn open_checkpoint(
    path: &Path,
    config: &ModelConfig,
    options: &CheckpointOptions,
) -> Result<Vec<Option<Arc<dyn Codec>>>, Error> {
    let settings = path.join("config.json");
    let checkpoint = Checkpoint {
        path: path.display().to_string(),
        files: files(path)?,
        settings: match settings.is_file() {
            true => read_json(&settings, "content")?,
            false => Value::Null,
        },
    };
    let references = checkpoint.references(config, options)?;
    checkpoint.codecs(config, references, options.latents)
}

/// The safetensors files of a checkpoint.
fn files(path: &Path) -> Result<Vec<SafetensorsFile>, Error> {
    if !path.is_dir() {
        return Ok(vec![SafetensorsFile::open(path)?]);
    }
    let fault = |why: String| Error::Model {
        file: path.display().to_string(),
        field: "checkpoint".into(),
        why,
    };
    let entries = std::fs::read_dir(path).map_err(|error| fault(error.to_string()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == "safetensors"))
        .collect();
    found.sort();
    if found.is_empty() {
        let why = "has no *.safetensors; pickled *.bin and *.pt files are not read";
        return Err(fault(why.into()));
    }
    let files = found.iter().map(SafetensorsFile::open);
    Ok(files.collect::<Result<_, _>>()?)
}

/// The tensors of one network, by what follows `compress_down.` or `compress_up.`.
type Network<'a> = BTreeMap<&'a str, (&'a SafetensorsFile, &'a str)>;

/// Encoder and decoder of a layer.
#[derive(Default)]
struct Pair<'a> {
    down: Network<'a>,
    up: Network<'a>,
}

struct Checkpoint {
    path: String,
    files: Vec<SafetensorsFile>,
    /// What `config.json` says; null where there is none.
    settings: Value,
}

impl Checkpoint {
    fn fault(&self, field: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Model {
            file: self.path.clone(),
            field: field.into(),
            why: why.into(),
        }
    }

    /// What `config.json` says under a name.
    fn setting(&self, name: &str) -> Option<&Value> {
        self.settings.get(name).filter(|value| !value.is_null())
    }

    fn disagree(&self, name: &str, value: &Value, expected: impl std::fmt::Display) -> Error {
        self.fault(format!("`{name}`"), format!("is {value}, not {expected}"))
    }

    /// A number that `config.json` may give under several names, which must all agree with each other and with what is asked for.
    fn agreed(
        &self,
        names: &[&str],
        asked: Option<u32>,
        read: impl Fn(&Value) -> Option<u32>,
    ) -> Result<Option<u32>, Error> {
        let mut known = asked;
        for name in names {
            let Some(value) = self.setting(name) else {
                continue;
            };
            let found = read(value)
                .ok_or_else(|| self.disagree(name, value, "a number that it could be"))?;
            if let Some(other) = known.filter(|known| *known != found) {
                let why = format!("is {value}, that is {found}, and {other} is asked for");
                return Err(self.fault(format!("`{name}`"), why));
            }
            known = Some(found);
        }
        Ok(known)
    }

    /// Where references come from; whatever `config.json` says must agree with the model and with what is asked for.
    fn references(
        &self,
        config: &ModelConfig,
        options: &CheckpointOptions,
    ) -> Result<ReferenceShape, Error> {
        for (name, expected) in [
            ("num_hidden_layers", config.layers),
            ("num_key_value_heads", config.shape.kv_heads),
            ("head_dim", config.shape.head_dim),
        ] {
            if let Some(value) = self.setting(name)
                && value.as_u64() != Some(expected.into())
            {
                let expected = format_args!("{expected} as the model has");
                return Err(self.disagree(name, value, expected));
            }
        }
        for (name, expected) in [
            ("cluster_metric", Value::from("l2")),
            ("cluster_on_kv", Value::from(true)),
            ("cluster_soft_assignment", Value::from(false)),
            ("split_kv", Value::from(false)),
        ] {
            if let Some(value) = self.setting(name)
                && *value != expected
            {
                return Err(self.disagree(name, value, expected));
            }
        }
        let every = |value: &Value| {
            let ratio = value.as_f64().filter(|ratio| *ratio > 0.0 && *ratio <= 1.0);
            ratio.map(|ratio| (1.0 / ratio) as u32)
        };
        let ratios = ["deltakv_center_ratio", "cluster_ratio"];
        let stride = self.agreed(&ratios, options.stride, every)?;
        let stride = stride.unwrap_or(DEFAULT.stride);
        let counts = [
            "deltakv_neighbor_count",
            "deltakv_k_neighbors",
            "seq_chunk_size",
        ];
        let whole = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
        let neighbours = self.agreed(&counts, options.neighbours, whole)?;
        let neighbours = neighbours.unwrap_or(DEFAULT.neighbours);
        if !(2..=128).contains(&stride) || !(1..=8).contains(&neighbours) {
            let why = format!(
                "a reference every {stride} tokens and {neighbours} for a token are asked for; \
                 every 2 to 128, and 1 to 8, can be had"
            );
            return Err(self.fault("references", why));
        }
        Ok(ReferenceShape { stride, neighbours })
    }

    fn codecs(
        &self,
        config: &ModelConfig,
        references: ReferenceShape,
        latents: LatentFormat,
    ) -> Result<Vec<Option<Arc<dyn Codec>>>, Error> {
        let mut shared = None;
        let mut layers: BTreeMap<u32, Pair<'_>> = BTreeMap::new();
        for file in &self.files {
            for info in file.tensors() {
                let name = info.name.as_str();
                let Some(part) = part_of(name) else {
                    if name.contains("compress_down") || name.contains("compress_up") {
                        let why = "codes keys and values apart, or is of no layer: neither is run";
                        return Err(self.fault(format!("tensor `{name}`"), why));
                    }
                    continue;
                };
                let pair = match part.layer {
                    None => shared.get_or_insert_default(),
                    Some(layer) if layer < config.layers => layers.entry(layer).or_default(),
                    Some(layer) => {
                        let why = format!("is of layer {layer}, the model has {}", config.layers);
                        return Err(self.fault(format!("tensor `{name}`"), why));
                    }
                };
                let network = match part.encodes {
                    true => &mut pair.down,
                    false => &mut pair.up,
                };
                if network.insert(part.rest, (file, name)).is_some() {
                    return Err(self.fault(format!("tensor `{name}`"), "is there twice"));
                }
            }
        }
        if layers.is_empty() && shared.is_none() {
            return Err(self.fault(
                "tensors",
                "has no `compress_down` and `compress_up` of any layer",
            ));
        }
        let codec = |pair: &Pair<'_>, layer| {
            let codec = self.linear(pair, layer, config.shape.cols(), references, latents)?;
            let rank = codec.shape.rank;
            match self.setting("kv_compressed_size") {
                Some(width) if width.as_u64() != Some(rank.into()) => {
                    let expected = format_args!("{rank} as its matrices have");
                    Err(self.disagree("kv_compressed_size", width, expected))
                }
                _ => Ok(codec.shared()),
            }
        };
        let shared = shared.map(|pair| codec(&pair, None)).transpose()?;
        (0..config.layers)
            .map(|layer| match layers.get(&layer) {
                Some(pair) => codec(pair, Some(layer)).map(Some),
                None => Ok(shared.clone()),
            })
            .collect()
    }

    /// A layer whose encoder and decoder are matrices: `z = down x - down r`, in which a bias of the encoder cancels, and `up z + r`.
    fn linear(
        &self,
        pair: &Pair<'_>,
        layer: Option<u32>,
        cols: u32,
        references: ReferenceShape,
        latents: LatentFormat,
    ) -> Result<Transform, Error> {
        let of = match layer {
            Some(layer) => format!("layer {layer}"),
            None => "all layers".into(),
        };
        for (name, network) in [("compress_down", &pair.down), ("compress_up", &pair.up)] {
            let parts: Vec<&str> = network.keys().copied().collect();
            let why = match parts[..] {
                ["weight"] => continue,
                ["bias", "weight"] if name == "compress_down" => continue,
                ["bias", "weight"] => "a bias, which is not run".into(),
                [] => "no tensors".into(),
                _ if parts.contains(&"0.weight") => "a GELU network, which is not run yet".into(),
                _ if parts.contains(&"w12.weight") => {
                    "a SwiGLU network, which is not run yet".into()
                }
                _ => format!("tensors {parts:?}, of which no network is known"),
            };
            return Err(self.fault(format!("`{name}` of {of}"), format!("has {why}")));
        }
        for name in ["compressor_down_type", "compressor_up_type"] {
            // "auto" is what the tensors are.
            if let Some(kind) = self.setting(name)
                && kind != "linear"
                && kind != "auto"
            {
                let expected = format_args!("linear as the tensors of {of} are");
                return Err(self.disagree(name, kind, expected));
            }
        }
        let (down, found) = self.matrix(&pair.down)?;
        let rank = found[0];
        let usable = rank > 0 && rank <= u64::from(cols) && rank.is_multiple_of(GROUP.into());
        if found[1] != u64::from(cols) || !usable {
            let expected = format!("a multiple of {GROUP} up to {cols}, by {cols}");
            return Err(self.fault(
                format!("`compress_down` of {of}"),
                format!("has the shape {found:?}, expected {expected}"),
            ));
        }
        let (up, found) = self.matrix(&pair.up)?;
        if found != [u64::from(cols), rank] {
            return Err(self.fault(
                format!("`compress_up` of {of}"),
                format!("has the shape {found:?}, expected [{cols}, {rank}]"),
            ));
        }
        let (bits, rule) = match latents {
            LatentFormat::F16 => (16, ScaleRule::Plain),
            LatentFormat::Q4 => (4, ScaleRule::MinMax),
        };
        let component = Component {
            bits,
            step: 1.0,
            zero: 0.0,
            energy: 1.0,
        };
        let (width, rank) = (cols as usize, rank as u32);
        Ok(Transform::new(
            "network",
            &vec![0.0; width],
            &vec![1.0; width],
            &vec![component; rank as usize],
            Some(Transform::maps(cols, rank, &down, &up)),
            rule,
            GROUP,
            Some(references),
            true,
            0,
        ))
    }

    /// The weights of a matrix, row by row, and its shape.
    fn matrix(&self, network: &Network<'_>) -> Result<(Vec<f32>, [u64; 2]), Error> {
        let Some(&(file, name)) = network.get("weight") else {
            return Err(self.fault("tensors", "has no weights"));
        };
        let rows = file.rows(name)?;
        let (count, cols) = (rows.rows(), rows.cols());
        let mut values = vec![0.0; count as usize * cols as usize];
        for (row, out) in (0..count).zip(values.chunks_mut(cols.max(1) as usize)) {
            rows.dequantize(row, out)?;
        }
        let largest = half::f16::MAX.to_f32();
        if !values.iter().all(|value| value.abs() <= largest) {
            let why = "holds what is no number, or beyond 16 bits";
            return Err(self.fault(format!("tensor `{name}`"), why));
        }
        Ok((values, [count.into(), cols.into()]))
    }
}

/// What a tensor of a checkpoint belongs to.
struct Part<'a> {
    layer: Option<u32>,
    encodes: bool,
    rest: &'a str,
}

/// Reads `model.layers.{i}.self_attn.compress_{down,up}.{rest}`, in which all before `compress` may be missing.
fn part_of(name: &str) -> Option<Part<'_>> {
    let mut layer = None;
    let mut words = name.split('.').peekable();
    let mut length = 0;
    while let Some(word) = words.next() {
        length += word.len() + 1;
        match word {
            "layers" => layer = Some(words.peek()?.parse().ok()?),
            "compress_down" | "compress_up" => {
                return Some(Part {
                    layer,
                    encodes: word == "compress_down",
                    rest: name.get(length..)?,
                });
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::GgmlType;
    use crate::format::testing::safetensors_bytes;

    #[test]
    fn tensors_are_told_by_their_names() {
        let part = |name| part_of(name).map(|part| (part.layer, part.encodes, part.rest));
        let of = "model.layers.12.self_attn.compress_down.w12.weight";
        assert_eq!(part(of), Some((Some(12), true, "w12.weight")));
        assert_eq!(part("compress_up.weight"), Some((None, false, "weight")));
        assert_eq!(
            part("model.layers.1.self_attn.k_compress_down.weight"),
            None
        );
        assert_eq!(part("model.layers.1.self_attn.q_proj.weight"), None);
        assert_eq!(part("compress_up"), None);
    }

    /// A model of two layers, with rows of 64 elements.
    fn config() -> ModelConfig {
        let text = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "vocab_size": 300, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": true}"#;
        ModelConfig::from_json("tiny", text).expect("it is a model")
    }

    /// A tensor's name and shape.
    type Named = (&'static str, [u64; 2]);

    /// A checkpoint of these tensors, all of whose weights are a half, and its settings.
    fn checkpoint(tensors: &[Named], settings: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let half = |count: u64| 0.5f32.to_le_bytes().repeat(count as usize);
        let data: Vec<Vec<u8>> = tensors.iter().map(|(_, s)| half(s[0] * s[1])).collect();
        let listed: Vec<(&str, &[u64], GgmlType, &[u8])> = tensors
            .iter()
            .zip(&data)
            .map(|((name, shape), data)| (*name, &shape[..], GgmlType::F32, &data[..]))
            .collect();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(directory.path().join(name), bytes).expect("it can be written");
        };
        write("model.safetensors", &safetensors_bytes(&listed));
        write("config.json", settings.as_bytes());
        directory
    }

    const LAYER: [Named; 2] = [
        ("model.layers.1.self_attn.compress_down.weight", [32, 64]),
        ("model.layers.1.self_attn.compress_up.weight", [64, 32]),
    ];

    #[test]
    fn a_layer_takes_its_matrices() {
        let settings = r#"{"cluster_ratio": 0.125, "seq_chunk_size": 2, "kv_compressed_size": 32}"#;
        let directory = checkpoint(&LAYER, settings);
        let options = CheckpointOptions {
            latents: LatentFormat::Q4,
            ..CheckpointOptions::default()
        };
        let codecs = open_checkpoint(directory.path(), &config(), &options).expect("it is sound");
        assert!(codecs.len() == 2 && codecs[0].is_none());
        let codec = codecs[1].as_ref().expect("layer 1 has one");
        let shape = codec.shape();
        let references = ReferenceShape {
            stride: 8,
            neighbours: 2,
        };
        assert_eq!(shape.references, Some(references));
        assert_eq!((shape.rank, shape.code_bits), (32, 128));
        let parameters = codec.parameters();
        let up = parameters.iter().find(|parameter| parameter.name == "up");
        let up = up.expect("it has a decoder");
        assert_eq!((up.rows, up.cols, up.bytes[1]), (64, 32, 0x38));
        assert!(is_checkpoint(&directory.path().join("model.safetensors")).expect("it is sound"));
        // One codec for all layers.
        let shared = [
            ("compress_down.weight", [32, 64]),
            ("compress_up.weight", [64, 32]),
        ];
        let directory = checkpoint(&shared, "{}");
        let options = CheckpointOptions::default();
        let codecs = open_checkpoint(directory.path(), &config(), &options).expect("it is sound");
        let strides = codecs.iter().flatten();
        let strides = strides.map(|codec| codec.shape().references.map(|found| found.stride));
        assert_eq!(strides.collect::<Vec<_>>(), [Some(10), Some(10)]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let [down, up] = LAYER;
        let asked = CheckpointOptions {
            stride: Some(16),
            ..CheckpointOptions::default()
        };
        let plain = CheckpointOptions::default();
        let gelu = "model.layers.1.self_attn.compress_down.0.weight";
        let swiglu = "model.layers.1.self_attn.compress_down.w12.weight";
        let split = "model.layers.1.self_attn.k_compress_down.weight";
        let astray = "model.layers.x.self_attn.compress_down.weight";
        let beyond = "model.layers.2.self_attn.compress_down.weight";
        let cases: [(&[Named], &str, CheckpointOptions, &str); 17] = [
            (
                &[down, up],
                r#"{"cluster_ratio": 0.1}"#,
                asked,
                "16 is asked",
            ),
            (
                &[down, up],
                r#"{"cluster_ratio": 0.9}"#,
                plain,
                "every 1 tokens",
            ),
            (
                &[down, up],
                r#"{"cluster_metric": "dot"}"#,
                plain,
                "cluster_metric",
            ),
            (
                &[down, up],
                r#"{"num_hidden_layers": 32}"#,
                plain,
                "as the model has",
            ),
            (
                &[down, up],
                r#"{"kv_compressed_size": 16}"#,
                plain,
                "not 32 as its matrices have",
            ),
            (&[down, up], "{", plain, "config.json"),
            (
                &[down, up],
                r#"{"cluster_ratio": 0.1, "deltakv_center_ratio": 0.05}"#,
                plain,
                "that is 10, and 20",
            ),
            (
                &[down, up],
                r#"{"compressor_down_type": "mlp_swiglu"}"#,
                plain,
                "linear as the tensors",
            ),
            (&[down, up], r#"{"seq_chunk_size": "4"}"#, plain, "a number"),
            (&[(astray, [32, 64])], "{}", plain, "of no layer"),
            (&[down], "{}", plain, "`compress_up` of layer 1"),
            (&[(down.0, [32, 128]), up], "{}", plain, "[32, 128]"),
            (&[down, (up.0, [64, 64])], "{}", plain, "expected [64, 32]"),
            (&[(gelu, [32, 64]), up], "{}", plain, "GELU"),
            (&[(swiglu, [32, 64]), up], "{}", plain, "SwiGLU"),
            (&[(split, [32, 64])], "{}", plain, "keys and values apart"),
            (&[(beyond, [32, 64])], "{}", plain, "the model has 2"),
        ];
        for (tensors, settings, options, expected) in cases {
            let directory = checkpoint(tensors, settings);
            let error = open_checkpoint(directory.path(), &config(), &options);
            let error = error.map(|_| ()).expect_err(expected).to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let empty = tempfile::tempdir().expect("a directory");
        let error = open_checkpoint(empty.path(), &config(), &plain).map(|_| ());
        let error = error.expect_err("it is empty").to_string();
        assert!(error.contains("*.safetensors"), "{error}");
    }
}
