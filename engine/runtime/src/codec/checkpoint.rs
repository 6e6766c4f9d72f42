//! Codecs from the checkpoints that DeltaKV's authors publish (section 4; the layout is in section 13 of our notes on it).
//!
//! A checkpoint has an encoder `compress_down` and a decoder `compress_up` for each layer, or one of each for all. Either is a matrix, or two
//! with GELU or SwiGLU between, as the names of its tensors say. It says nothing of where its references come from but what `config.json` may
//! hold; whatever that says must agree with the tensors and with what is asked for.

mod layers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longwave_contract::kv::{ReferenceShape, ScaleRule};
use serde_json::Value;

use super::{Codec, Network};
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

/// A tensor: its file and its name there.
type Located<'a> = (&'a SafetensorsFile, &'a str);

/// The tensors of one network, by what follows `compress_down.` or `compress_up.`.
type Parts<'a> = BTreeMap<&'a str, Located<'a>>;

/// Encoder and decoder of a layer.
#[derive(Default)]
struct Pair<'a> {
    down: Parts<'a>,
    up: Parts<'a>,
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
                let parts = match part.encodes {
                    true => &mut pair.down,
                    false => &mut pair.up,
                };
                if parts.insert(part.rest, (file, name)).is_some() {
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
            let codec = self.network(pair, layer, config.shape.cols(), references, latents)?;
            let rank = codec.shape().rank;
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

    /// The codec of a layer.
    fn network(
        &self,
        pair: &Pair<'_>,
        layer: Option<u32>,
        cols: u32,
        references: ReferenceShape,
        latents: LatentFormat,
    ) -> Result<Network, Error> {
        let of = match layer {
            Some(layer) => format!("layer {layer}"),
            None => "all layers".into(),
        };
        let width = u64::from(cols);
        let usable = |rank: u64| rank > 0 && rank <= width && rank.is_multiple_of(GROUP.into());
        let expected = format!("a multiple of {GROUP} up to {width}");
        let (down, rank) = self.layers(&pair.down, ("down", &of), width, (&usable, &expected))?;
        let (same, expected) = (|found: u64| found == width, width.to_string());
        let (up, _) = self.layers(&pair.up, ("up", &of), rank, (&same, &expected))?;
        let codes = match latents {
            LatentFormat::F16 => (16, ScaleRule::Plain, GROUP),
            LatentFormat::Q4 => (4, ScaleRule::MinMax, GROUP),
        };
        Ok(Network::new(
            (cols, rank as u32),
            codes,
            references,
            &down,
            &up,
        ))
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
mod tests;
