//! Bringing a model's weights to a device.

use std::collections::BTreeMap;
use std::sync::Arc;

use longwave_contract::{Allocation, Backend, BackendError, BufferDesc, DType, Tensor};

use super::config::Architecture;
use super::names::{Name, Part};
use super::source::ModelSource;
use super::{Layer, Model, Rope, Weights};
use crate::engine::EngineOptions;
use crate::error::{DoesNotFit, Error};
use crate::format::repack::{Rows, repack_rows};

/// Bytes that are repacked and uploaded at a time: what loading holds on the host beside the mapped file.
const UPLOAD: u64 = 16 << 20;

/// Bytes that are allocated at a time to see whether there is room.
const PROBE: u64 = 256 << 20;

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadEvent {
    /// Bytes that are on the device.
    pub done: u64,
    /// Bytes that will be.
    pub total: u64,
}

/// What a model's weights come to on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightSummary {
    /// Bytes for each element type, by its name.
    pub bytes_by_type: BTreeMap<&'static str, u64>,
    /// Bytes in total, row padding included.
    pub bytes: u64,
    /// Weights in total.
    pub parameters: u64,
}

/// Where a tensor of the file goes.
struct Placement<'s> {
    name: Name,
    rows: Rows<'s>,
    dtype: DType,
}

impl ModelSource {
    /// What the weights will come to on a device.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn summary(&self) -> Result<WeightSummary, Error> {
        let mut summary = WeightSummary::default();
        for placement in self.placements()? {
            let bytes = placement.desc(self).bytes;
            *summary
                .bytes_by_type
                .entry(placement.dtype.name())
                .or_default() += bytes;
            summary.bytes += bytes;
            summary.parameters +=
                u64::from(placement.rows.rows()) * u64::from(placement.rows.cols());
        }
        Ok(summary)
    }

    /// Every tensor that the model needs, with its shape checked.
    fn placements(&self) -> Result<Vec<Placement<'_>>, Error> {
        let config = self.config();
        let (width, inner, q, kv) = (
            config.width,
            config.inner,
            config.q_width(),
            config.shape.width(),
        );
        let vocabulary = config.vocabulary;
        let mut placements = Vec::new();
        placements.push(self.matrix(Name::Embedding, vocabulary, width)?);
        placements.push(self.vector(Name::OutputNorm, width)?);
        let apart = match config.tied {
            Some(tied) => !tied,
            None => self.find(Name::Output)?.is_some(),
        };
        if apart {
            placements.push(self.matrix(Name::Output, vocabulary, width)?);
        }
        for layer in 0..config.layers {
            let name = |part| Name::Layer(layer, part);
            for (part, cols) in [(Part::AttentionNorm, width), (Part::FeedForwardNorm, width)] {
                placements.push(self.vector(name(part), cols)?);
            }
            for (part, rows, cols) in [
                (Part::Query, q, width),
                (Part::Key, kv, width),
                (Part::Value, kv, width),
                (Part::AttentionOutput, width, q),
                (Part::Gate, inner, width),
                (Part::Up, inner, width),
                (Part::Down, width, inner),
            ] {
                placements.push(self.matrix(name(part), rows, cols)?);
            }
            let (biased, normed) = match config.architecture {
                Architecture::Llama => (false, false),
                Architecture::Qwen2 => (true, false),
                Architecture::Qwen3 => (false, true),
            };
            for (part, cols, required) in [
                (Part::QueryBias, q, biased),
                (Part::KeyBias, kv, biased),
                (Part::ValueBias, kv, biased),
                (Part::QueryNorm, config.shape.head_dim, normed),
                (Part::KeyNorm, config.shape.head_dim, normed),
                (Part::AttentionOutputBias, width, false),
            ] {
                if required || self.find(name(part))?.is_some() {
                    placements.push(self.vector(name(part), cols)?);
                }
            }
        }
        Ok(placements)
    }

    fn matrix(&self, name: Name, rows: u32, cols: u32) -> Result<Placement<'_>, Error> {
        self.placement(name, &[u64::from(rows), u64::from(cols)])
    }

    fn vector(&self, name: Name, cols: u32) -> Result<Placement<'_>, Error> {
        self.placement(name, &[u64::from(cols)])
    }

    fn placement(&self, name: Name, shape: &[u64]) -> Result<Placement<'_>, Error> {
        let text = self.convention().name(name);
        let rows = self
            .find(name)?
            .ok_or_else(|| self.fault(format!("tensor `{text}`"), "is missing"))?;
        let found = &rows.tensor().shape;
        if found != shape {
            return Err(self.fault(
                format!("tensor `{text}`"),
                format!("has the shape {found:?}, expected {shape:?}"),
            ));
        }
        Ok(Placement {
            name,
            dtype: rows.target(),
            rows,
        })
    }
}

impl Placement<'_> {
    fn desc(&self, source: &ModelSource) -> BufferDesc {
        let label = source.convention().name(self.name);
        BufferDesc::of(label, self.dtype, self.rows.rows(), self.rows.cols())
    }
}

impl Model {
    /// Brings a model's weights to a device, quantised weights in the layout that [`crate::format::repack`] gives them.
    ///
    /// `options` is what the engine will be made with: the model is refused before anything is loaded when weights, cache and working memory
    /// together exceed what the device has free.
    ///
    /// # Errors
    /// A tensor is missing, misshapen or holds what it must not, the model does not fit, or the device fails.
    pub fn load(
        backend: &Arc<dyn Backend>,
        source: &ModelSource,
        options: &EngineOptions,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Model, Error> {
        let placements = source.placements()?;
        let rope_rows = Rope::table_rows(options.context);
        let rope_desc = BufferDesc::of(
            "rotary table",
            DType::F32,
            rope_rows,
            source.config().shape.head_dim,
        );
        let total = placements
            .iter()
            .map(|placement| placement.desc(source).bytes)
            .sum::<u64>()
            + rope_desc.bytes;
        let fit = Fit {
            weights: total,
            cache: u64::from(options.engines) * options.cache_bytes(source.config()),
            work: u64::from(options.engines) * options.work_bytes(source.config()),
        };
        fit.check(&**backend, source, options)?;
        let mut buffers = fit.reserve(backend, source, options, &placements)?;

        let mut loader = Loader {
            backend,
            source,
            progress,
            done: 0,
            total,
            tensors: Vec::new(),
        };
        for (placement, buffer) in placements.iter().zip(&buffers) {
            loader.load(placement, buffer)?;
        }
        let rope = Allocation::new(backend, &rope_desc)?;
        backend.write(
            rope.id(),
            0,
            bytemuck::cast_slice(&Rope::new(source.config()).table(options.context)),
        )?;
        let rope_tensor = Tensor::new(
            rope.id(),
            DType::F32,
            rope_rows,
            source.config().shape.head_dim,
        );
        buffers.push(rope);
        Ok(Model {
            backend: Arc::clone(backend),
            path: source.path().to_path_buf(),
            config: source.config().clone(),
            weights: loader.weights(rope_tensor, buffers)?,
        })
    }
}

struct Loader<'l> {
    backend: &'l Arc<dyn Backend>,
    source: &'l ModelSource,
    progress: &'l mut dyn FnMut(LoadEvent),
    done: u64,
    total: u64,
    tensors: Vec<(Name, Tensor)>,
}

impl Loader<'_> {
    fn load(&mut self, placement: &Placement<'_>, buffer: &Allocation) -> Result<(), Error> {
        let desc = placement.desc(self.source);
        let (rows, cols) = (placement.rows.rows(), placement.rows.cols());
        let order = self.source.row_order(placement.name);
        let mut offset = 0;
        if rows == 1 && order.is_some() {
            // A permuted bias: its columns are the rows of its matrix.
            let mut values = vec![0.0f32; cols as usize];
            placement.rows.dequantize(0, &mut values)?;
            let moved: Vec<f32> = order
                .iter()
                .flatten()
                .filter_map(|&index| values.get(index as usize).copied())
                .collect();
            self.backend
                .write(buffer.id(), 0, bytemuck::cast_slice(&moved))?;
            self.advance(desc.bytes);
        } else {
            let order = order.unwrap_or_else(|| (0..rows).collect());
            let at_once = (UPLOAD / desc.row).max(1) as usize;
            let mut staging = Vec::new();
            for rows in order.chunks(at_once) {
                staging.clear();
                staging.resize(rows.len() * desc.row as usize, 0);
                repack_rows(&placement.rows, placement.dtype, Some(rows), &mut staging)?;
                self.backend.write(buffer.id(), offset, &staging)?;
                offset += staging.len() as u64;
                self.advance(staging.len() as u64);
            }
        }
        self.tensors.push((
            placement.name,
            Tensor::new(buffer.id(), placement.dtype, rows, cols),
        ));
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        (self.progress)(LoadEvent {
            done: self.done,
            total: self.total,
        });
    }

    fn weights(self, rope: Tensor, buffers: Vec<Allocation>) -> Result<Weights, Error> {
        let tensors: std::collections::HashMap<Name, Tensor> = self.tensors.into_iter().collect();
        let source = self.source;
        let need = |name: Name| {
            let found = tensors.get(&name).copied();
            found.ok_or_else(|| {
                source.fault(
                    format!("tensor `{}`", source.convention().name(name)),
                    "is missing",
                )
            })
        };
        let layer = |index: u32| -> Result<Layer, Error> {
            let find = |part| tensors.get(&Name::Layer(index, part)).copied();
            let need = |part| need(Name::Layer(index, part));
            Ok(Layer {
                attention_norm: need(Part::AttentionNorm)?,
                w_q: need(Part::Query)?,
                w_k: need(Part::Key)?,
                w_v: need(Part::Value)?,
                b_q: find(Part::QueryBias),
                b_k: find(Part::KeyBias),
                b_v: find(Part::ValueBias),
                q_norm: find(Part::QueryNorm),
                k_norm: find(Part::KeyNorm),
                w_o: need(Part::AttentionOutput)?,
                b_o: find(Part::AttentionOutputBias),
                feed_forward_norm: need(Part::FeedForwardNorm)?,
                w_gate: need(Part::Gate)?,
                w_up: need(Part::Up)?,
                w_down: need(Part::Down)?,
            })
        };
        let embedding = need(Name::Embedding)?;
        Ok(Weights {
            embedding,
            rope,
            layers: (0..source.config().layers)
                .map(layer)
                .collect::<Result<_, _>>()?,
            norm: need(Name::OutputNorm)?,
            // A model without an output matrix uses its embeddings.
            output: tensors.get(&Name::Output).copied().unwrap_or(embedding),
            buffers,
        })
    }
}

/// Bytes that a model and its engine will take.
struct Fit {
    weights: u64,
    cache: u64,
    work: u64,
}

impl Fit {
    /// Refuses what exceeds the memory that the device says is free.
    fn check(
        &self,
        backend: &dyn Backend,
        source: &ModelSource,
        options: &EngineOptions,
    ) -> Result<(), Error> {
        match backend.caps().memory {
            Some(free) if self.weights + self.cache + self.work > free => {
                Err(self.refusal(backend, source, options, Some(free)))
            }
            _ => Ok(()),
        }
    }

    /// Allocates the weights, and makes sure that cache and working memory find room beside them: not every device says what is free.
    fn reserve(
        &self,
        backend: &Arc<dyn Backend>,
        source: &ModelSource,
        options: &EngineOptions,
        placements: &[Placement<'_>],
    ) -> Result<Vec<Allocation>, Error> {
        let full = |error| match error {
            BackendError::OutOfMemory { .. } => self.refusal(&**backend, source, options, None),
            other => Error::Backend(other),
        };
        let weights = placements
            .iter()
            .map(|placement| Allocation::new(backend, &placement.desc(source)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(full)?;
        let mut rest = self.cache + self.work;
        let mut held = Vec::new();
        while rest > 0 {
            let bytes = rest.min(PROBE);
            let desc = BufferDesc {
                label: "room for the cache".into(),
                bytes,
                row: Tensor::ALIGN,
            };
            held.push(Allocation::new(backend, &desc).map_err(full)?);
            rest -= bytes;
        }
        Ok(weights)
    }

    fn refusal(
        &self,
        backend: &dyn Backend,
        source: &ModelSource,
        options: &EngineOptions,
        free: Option<u64>,
    ) -> Error {
        Error::from(Box::new(DoesNotFit {
            model: source.path().display().to_string(),
            device: backend.caps().device.clone(),
            weights: self.weights,
            cache: self.cache,
            tokens: options.cache_tokens.saturating_mul(options.engines),
            work: self.work,
            free,
        }))
    }
}
