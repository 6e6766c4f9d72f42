//! A model's codec, and the file that it is kept in.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use longwave_contract::DType;
use longwave_contract::kv::{ComponentDesc, ReferenceShape, ScaleRule};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::{Codec, Component, Parameter, Transform};
use crate::error::Error;
use crate::format::GgmlType;
use crate::format::safetensors::SafetensorsFile;
use crate::model::Model;

/// The layout of the file, which names its metadata; another one is refused.
const LAYOUT: &str = "longwave-codec-1";

/// What calibration found for a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerReport {
    /// Where its references come from.
    pub references: Option<ReferenceShape>,
    /// Bits of a latent, on average over the row's width.
    pub bits: f64,
    /// Exact rows of a block beside the references.
    pub escapes: u32,
    /// Bytes over those of raw rows.
    pub bytes: f64,
    /// Mean weighted error of a token: what it adds to attention's output, squared, over the output's size.
    pub error: f64,
}

/// The codecs of all layers of one model, with where they come from.
#[derive(Clone, Debug)]
pub struct ModelCodec {
    layers: Vec<Arc<Transform>>,
    about: About,
}

/// The file's provenance, as JSON in its metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct About {
    /// Which model it was fitted to.
    model: Fingerprint,
    /// Tokens that it was fitted on.
    tokens: usize,
    /// What the text was: a name and a hash for each file.
    text: Vec<String>,
    /// Layers that observe.
    observers: Option<Vec<u32>>,
    layers: Vec<LayerAbout>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct LayerAbout {
    rank: u32,
    stride: Option<u32>,
    neighbours: Option<u32>,
    escapes: u32,
    bits: f64,
    bytes: f64,
    error: f64,
}

/// What tells models apart: their dimensions, and a hash over a part of their weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The family.
    pub architecture: String,
    /// Transformer layers.
    pub layers: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// SHA-256 over the first rows of each layer's key weights.
    pub weights: String,
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} layers with {} key heads of {} (weights {})",
            self.architecture,
            self.layers,
            self.kv_heads,
            self.head_dim,
            self.weights.get(..12).unwrap_or(&self.weights)
        )
    }
}

impl ModelCodec {
    /// A codec that calibration has fitted.
    pub(crate) fn closed_form(
        fingerprint: Fingerprint,
        codecs: Vec<Transform>,
        report: &[LayerReport],
        observers: Option<Vec<u32>>,
        tokens: usize,
    ) -> Self {
        let about = About {
            model: fingerprint,
            tokens,
            text: Vec::new(),
            observers,
            layers: codecs
                .iter()
                .zip(report)
                .map(|(codec, report)| LayerAbout {
                    rank: codec.shape.rank,
                    stride: report.references.map(|references| references.stride),
                    neighbours: report.references.map(|references| references.neighbours),
                    escapes: report.escapes,
                    bits: report.bits,
                    bytes: report.bytes,
                    error: report.error,
                })
                .collect(),
        };
        ModelCodec {
            layers: codecs.into_iter().map(Arc::new).collect(),
            about,
        }
    }

    /// Says what the text was.
    pub fn describe_text(&mut self, text: Vec<String>) {
        self.about.text = text;
    }

    /// What the text was.
    pub fn text(&self) -> &[String] {
        &self.about.text
    }

    /// The codec of each layer.
    pub fn layers(&self) -> Vec<Arc<dyn Codec>> {
        let layers = self.layers.iter();
        layers
            .map(|codec| Arc::clone(codec) as Arc<dyn Codec>)
            .collect()
    }

    /// The layers that observe, where the text was long enough to find them.
    pub fn observers(&self) -> Option<&[u32]> {
        self.about.observers.as_deref()
    }

    /// Tokens of text that it was fitted on, drawn ones not counted.
    pub fn tokens(&self) -> usize {
        self.about.tokens
    }

    /// Bytes of a token over those of its raw rows, all layers together.
    pub fn bytes(&self) -> f64 {
        let layers = &self.about.layers;
        layers.iter().map(|layer| layer.bytes).sum::<f64>() / layers.len().max(1) as f64
    }

    /// What calibration found for each layer.
    pub fn report(&self) -> Vec<LayerReport> {
        let layers = self.about.layers.iter();
        layers
            .map(|layer| LayerReport {
                references: layer.references(),
                bits: layer.bits,
                escapes: layer.escapes,
                bytes: layer.bytes,
                error: layer.error,
            })
            .collect()
    }

    /// Whether the codec was fitted to this model.
    ///
    /// # Errors
    /// It was not, naming both.
    pub fn check(&self, model: &Model) -> Result<(), Error> {
        let found = model.fingerprint()?;
        if found != self.about.model {
            return Err(Error::Parameter(format!(
                "the codec was fitted to another model: {}, not {found}",
                self.about.model
            )));
        }
        Ok(())
    }

    /// Writes the codec to a file: to one beside it first, so that a failure leaves what was there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let fail = |what: &dyn std::fmt::Display| {
            Error::Parameter(format!("{} cannot be written: {what}", path.display()))
        };
        let about = serde_json::to_string(&self.about).map_err(|error| fail(&error))?;
        // One entry: several would stand in any order, and equal codecs make equal files.
        let metadata = HashMap::from([(LAYOUT.to_owned(), about)]);
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (layer, codec) in self.layers.iter().enumerate() {
            for parameter in &codec.parameters {
                let name = format!("layers.{layer}.{}", parameter.name);
                let shape = vec![parameter.rows as usize, parameter.cols as usize];
                let dtype = match parameter.dtype {
                    DType::F16 => Dtype::F16,
                    // Words are components: numbers of four kinds, all of which f32 holds exactly.
                    _ => Dtype::F32,
                };
                let bytes = match parameter.dtype {
                    DType::U32 => components_as_floats(parameter),
                    _ => unpadded(parameter),
                };
                tensors.push((name, dtype, shape, bytes));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                TensorView::new(*dtype, shape.clone(), bytes)
                    .map(|view| (name.as_str(), view))
                    .map_err(|error| fail(&error))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| fail(&error))?;
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let part = Path::new(&part);
        let written = std::fs::write(part, bytes).and_then(|()| std::fs::rename(part, path));
        written.map_err(|error| {
            // Best effort: what was written in part is of no use.
            let _ = std::fs::remove_file(part);
            fail(&error)
        })
    }

    /// Reads a codec from a file.
    ///
    /// # Errors
    /// The file is damaged, of another layout, or holds layers that do not fit together; the message names the tensor.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = SafetensorsFile::open(path)?;
        let name = path.display().to_string();
        let fault = |field: String, why: String| Error::Model {
            file: name.clone(),
            field,
            why,
        };
        let metadata = file.metadata();
        let about = metadata.get(LAYOUT).ok_or_else(|| {
            let why = format!("has no entry `{LAYOUT}`: this is no codec of this version");
            fault("metadata".into(), why)
        })?;
        let about: About = serde_json::from_str(about)
            .map_err(|error| fault("about".into(), format!("is not what it should be: {error}")))?;
        if about.layers.len() != about.model.layers as usize {
            let why = format!(
                "has {} layers, the model {}",
                about.layers.len(),
                about.model.layers
            );
            return Err(fault("about".into(), why));
        }
        let cols = 2 * u64::from(about.model.kv_heads) * u64::from(about.model.head_dim);
        let cols = u32::try_from(cols)
            .ok()
            .filter(|cols| (32..=1 << 16).contains(cols) && cols.is_multiple_of(32))
            .ok_or_else(|| fault("about".into(), format!("has rows of {cols} elements")))?;
        let mut layers = Vec::new();
        for (layer, about) in about.layers.iter().enumerate() {
            let read = |part: &str, rows: u32, cols: u32| -> Result<Vec<f32>, Error> {
                let name = format!("layers.{layer}.{part}");
                let info = file.tensor(&name)?;
                let expected = [u64::from(rows), u64::from(cols)];
                if info.shape != expected {
                    let why = format!("has the shape {:?}, expected {expected:?}", info.shape);
                    return Err(fault(format!("tensor `{name}`"), why));
                }
                let values = floats(file.bytes(&name)?, info.element);
                match values {
                    Some(values) if values.iter().all(|value| value.is_finite()) => Ok(values),
                    Some(_) => Err(fault(
                        format!("tensor `{name}`"),
                        "holds what is no number".into(),
                    )),
                    None => Err(fault(
                        format!("tensor `{name}`"),
                        "has another element type".into(),
                    )),
                }
            };
            if about.rank == 0 || about.rank > cols || !about.rank.is_multiple_of(32) {
                let why = format!("has a rank of {}", about.rank);
                return Err(fault(format!("layer {layer}"), why));
            }
            let references = about.references();
            let sound = references.is_none_or(|references| {
                (2..=128).contains(&references.stride) && (1..=8).contains(&references.neighbours)
            });
            if !sound || about.escapes > 128 {
                let why = format!(
                    "has references {references:?} and {} escapes",
                    about.escapes
                );
                return Err(fault(format!("layer {layer}"), why));
            }
            let mean = read("mean", 1, cols)?;
            let metric = read("metric", 1, cols)?;
            let energy = read("energy", 1, about.rank)?;
            let words = read("components", about.rank, ComponentDesc::WORDS)?;
            let components: Vec<Component> = words
                .chunks_exact(4)
                .zip(&energy)
                .map(|(words, &energy)| Component {
                    bits: words[1] as u32,
                    step: words[2],
                    zero: words[3],
                    energy,
                })
                .collect();
            let sound = |component: &Component| {
                let codes = (1u32 << component.bits.min(8)) - 1;
                component.bits <= 8
                    && (component.bits == 0 || component.step > 0.0)
                    && (0.0..=codes as f32).contains(&component.zero)
            };
            if !components.iter().all(sound) || metric.iter().any(|metric| *metric < 0.0) {
                let why = "holds bits, steps or weights that no codec has".to_owned();
                return Err(fault(format!("tensor `layers.{layer}.components`"), why));
            }
            let down = read("down", about.rank, cols)?;
            let up = read("up", cols, about.rank)?;
            let maps = Transform::maps(cols, about.rank, &down, &up);
            layers.push(Arc::new(Transform::new(
                "closed-form",
                &mean,
                &metric,
                &components,
                Some(maps),
                ScaleRule::Gain,
                about.rank,
                references,
                false,
                about.escapes,
            )));
        }
        Ok(ModelCodec { layers, about })
    }
}

impl LayerAbout {
    fn references(&self) -> Option<ReferenceShape> {
        Some(ReferenceShape {
            stride: self.stride?,
            neighbours: self.neighbours?,
        })
    }
}

/// Rows without their padding.
fn unpadded(parameter: &Parameter) -> Vec<u8> {
    let pitch = parameter.dtype.row_bytes(parameter.cols) as usize;
    let bytes = parameter.cols as usize * parameter.dtype.bits() as usize / 8;
    let rows = parameter.bytes.chunks_exact(pitch.max(1));
    rows.flat_map(|row| &row[..bytes]).copied().collect()
}

/// Descriptors of latents as f32 numbers.
fn components_as_floats(parameter: &Parameter) -> Vec<u8> {
    let words: &[u32] = bytemuck::cast_slice(&parameter.bytes);
    words
        .chunks_exact(4)
        .flat_map(|words| {
            let [offset, bits] = [words[0] as f32, words[1] as f32];
            [
                offset,
                bits,
                f32::from_bits(words[2]),
                f32::from_bits(words[3]),
            ]
        })
        .flat_map(f32::to_le_bytes)
        .collect()
}

/// Numbers of f32 or f16; none of any other type.
fn floats(bytes: &[u8], of: GgmlType) -> Option<Vec<f32>> {
    match of {
        GgmlType::F32 => {
            let numbers = bytes.as_chunks::<4>().0.iter();
            Some(numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect())
        }
        GgmlType::F16 => {
            let numbers = bytes.as_chunks::<2>().0.iter();
            let halves: Vec<f16> = numbers.map(|bytes| f16::from_le_bytes(*bytes)).collect();
            let mut values = vec![0.0; halves.len()];
            halves.convert_to_f32_slice(&mut values);
            Some(values)
        }
        _ => None,
    }
}
