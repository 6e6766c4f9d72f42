//! Models of random weights: the shape of a model that nobody has to fetch, for measuring.
//!
//! What a step costs does not depend on what the weights are. A block of seeded rows is made on the host for each row length, brought to the
//! device once, and copied from there over all matrices from varying rows on: gigabytes of weights never cross the bus. Values have the
//! variance `1 / cols`, so that activations stay about as large as they were.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use half::f16;
use longwave_contract::{Allocation, Backend, BufferDesc, DType, Tensor};

use super::config::ModelConfig;
use super::fit::Fit;
use super::layout::{Place, places};
use super::{Model, Rope, Weights};
use crate::engine::EngineOptions;
use crate::error::Error;
use crate::random::SplitMix64;

/// Bytes of a block at most: enough that the keys of one layer, whose covariance a calibration computes, are not a few rows again and again.
const BLOCK: u64 = 32 << 20;

/// What random weights are like.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomWeights {
    /// What the model is called.
    pub name: String,
    /// Its dimensions.
    pub config: ModelConfig,
    /// The type of its matrices: one of [`DType::WEIGHTS`].
    pub dtype: DType,
    /// Decides the values. The same seed gives the same model on every backend.
    pub seed: u64,
}

impl RandomWeights {
    /// Weights in total. Where the dimensions do not say whether the output matrix is the embedding, it is.
    ///
    /// # Errors
    /// The dimensions do not fit the type of the weights.
    pub fn parameters(&self) -> Result<u64, Error> {
        let places = self.places()?.into_iter();
        Ok(places
            .map(|place| u64::from(place.rows) * u64::from(place.cols))
            .sum())
    }

    fn fault(&self, field: &str, why: impl ToString) -> Error {
        Error::Model {
            file: self.name.clone(),
            field: field.to_owned(),
            why: why.to_string(),
        }
    }

    fn places(&self) -> Result<Vec<Place>, Error> {
        let multiple = self.dtype.column_multiple();
        let q = self.config.q_width();
        if !DType::WEIGHTS.contains(&self.dtype) {
            return Err(self.fault("weights", format!("{} is no type of weights", self.dtype)));
        }
        if !q.is_multiple_of(multiple) {
            let why = format!(
                "rows of {q} elements are no multiple of {multiple}, as {} needs",
                self.dtype
            );
            return Err(self.fault("heads", why));
        }
        places(&self.config, |_| Ok(false))
    }

    fn dtype(&self, place: &Place) -> DType {
        match place.matrix {
            true => self.dtype,
            false => DType::F32,
        }
    }

    /// A block of rows of `cols` elements, at most `most`.
    fn block(&self, cols: u32, most: u32) -> (u32, Vec<u8>) {
        let format = self.dtype.row_format(cols);
        let rows = (BLOCK / format.row_bytes).clamp(1, u64::from(most)) as u32;
        let mut random = SplitMix64::of(self.seed, &[u64::from(cols)]);
        let mut bytes = vec![0u8; (format.row_bytes * u64::from(rows)) as usize];
        let deviation = 1.0 / f64::from(cols).sqrt();
        for row in bytes.chunks_exact_mut(format.row_bytes as usize) {
            let (codes, scales) = row.split_at_mut(format.scale_offset as usize);
            match self.dtype.group() {
                None => fill_halves(codes, deviation, &mut random),
                Some(group) => {
                    // Codes are even over all their values.
                    let used = (u64::from(cols) * self.dtype.bits()).div_ceil(8) as usize;
                    for eight in codes[..used].chunks_mut(8) {
                        eight.copy_from_slice(&random.number().to_le_bytes()[..eight.len()]);
                    }
                    fill_scales(self.dtype, scales, cols.div_ceil(group), deviation);
                }
            }
        }
        (rows, bytes)
    }

    /// Norms are 1, biases small.
    fn vector(&self, place: &Place, random: &mut SplitMix64) -> Vec<f32> {
        let is_bias = place.name.is_bias();
        let value = |random: &mut SplitMix64| (0.2 * random.uniform() - 0.1) as f32;
        (0..place.cols)
            .map(|_| if is_bias { value(random) } else { 1.0 })
            .collect()
    }
}

/// Even between limits that give a deviation, in f16.
fn fill_halves(bytes: &mut [u8], deviation: f64, random: &mut SplitMix64) {
    let limit = 3f64.sqrt() * deviation;
    for value in bytes.chunks_exact_mut(2) {
        let drawn = f16::from_f64(limit * (2.0 * random.uniform() - 1.0));
        value.copy_from_slice(&drawn.to_le_bytes());
    }
}

/// Scales, and minima where there are any, by which even codes have a deviation, around 0.
fn fill_scales(dtype: DType, bytes: &mut [u8], groups: u32, deviation: f64) {
    let codes = f64::from(1u32 << dtype.bits());
    let scale = deviation / ((codes * codes - 1.0) / 12.0).sqrt();
    let mut pair = f16::from_f64(scale).to_le_bytes().to_vec();
    if dtype.has_minimum() {
        let minimum = f16::from_f64(-scale * (codes - 1.0) / 2.0);
        pair.extend(minimum.to_le_bytes());
    }
    for group in bytes.chunks_exact_mut(pair.len()).take(groups as usize) {
        group.copy_from_slice(&pair);
    }
}

impl Model {
    /// Makes a model of random weights on a device. `options` are as for [`Model::load`].
    ///
    /// # Errors
    /// The dimensions do not fit the type of the weights, the model does not fit, or the device fails.
    pub fn random(
        backend: &Arc<dyn Backend>,
        weights: &RandomWeights,
        options: &EngineOptions,
    ) -> Result<Model, Error> {
        let (config, places) = (&weights.config, weights.places()?);
        let desc = |place: &Place| {
            let label = format!("{:?}", place.name);
            BufferDesc::of(label, weights.dtype(place), place.rows, place.cols)
        };
        let descs: Vec<BufferDesc> = places.iter().map(desc).collect();
        let bytes = descs.iter().map(|desc| desc.bytes).sum::<u64>();
        let rope_bytes = Rope::desc(config, options.context).bytes;
        let fit = Fit::new(
            backend,
            (&weights.name, config),
            options,
            bytes + rope_bytes,
        );
        fit.check()?;
        let mut buffers = fit.reserve(&descs)?;
        let mut tensors = HashMap::new();
        let mut blocks: HashMap<u32, (u32, Allocation)> = HashMap::new();
        let mut random = SplitMix64::of(weights.seed, &[]);
        for (place, buffer) in places.iter().zip(&buffers) {
            let dtype = weights.dtype(place);
            let tensor = Tensor::new(buffer.id(), dtype, place.rows, place.cols);
            tensors.insert(place.name, tensor);
            if !place.matrix {
                let values = weights.vector(place, &mut random);
                backend.write(buffer.id(), 0, bytemuck::cast_slice(&values))?;
                continue;
            }
            let (rows, block) = match blocks.entry(place.cols) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(free) => {
                    let same = places.iter().filter(|other| other.cols == place.cols);
                    let most = same.map(|other| other.rows).max().unwrap_or(1);
                    let (rows, bytes) = weights.block(place.cols, most);
                    let desc = BufferDesc::of("block of weights", dtype, rows, place.cols);
                    let block = Allocation::new(backend, &desc)?;
                    backend.write(block.id(), 0, &bytes)?;
                    free.insert((rows, block))
                }
            };
            spread(&**backend, (block, *rows), tensor, &mut random)?;
        }
        let (rope, rope_buffer) = Rope::place(backend, config, options.context)?;
        buffers.push(rope_buffer);
        let missing = |name| weights.fault(&format!("{name:?}"), "is missing");
        Ok(Model {
            path: PathBuf::from(&weights.name),
            config: config.clone(),
            weights: Weights::new(config, &tensors, rope, buffers, missing)?,
            backend: Arc::clone(backend),
        })
    }
}

/// Fills a matrix with the rows of a block, each time from another one on.
fn spread(
    backend: &dyn Backend,
    (block, rows): (&Allocation, u32),
    tensor: Tensor,
    random: &mut SplitMix64,
) -> Result<(), Error> {
    let pitch = tensor.row_bytes();
    let mut at = 0;
    let mut from = random.below(rows as usize) as u32;
    while at < tensor.rows {
        let count = (rows - from).min(tensor.rows - at);
        let source = (block.id(), u64::from(from) * pitch);
        let target = (tensor.buffer, u64::from(at) * pitch);
        backend.copy(source, target, u64::from(count) * pitch)?;
        (at, from) = (at + count, 0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(dtype: DType) -> RandomWeights {
        let config = r#"{"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2,
            "num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 512, "num_key_value_heads": 1}"#;
        RandomWeights {
            name: "tiny".into(),
            config: ModelConfig::from_json("tiny", config).expect("it is a model"),
            dtype,
            seed: 1,
        }
    }

    #[test]
    fn values_have_the_variance_that_keeps_activations() {
        for dtype in DType::WEIGHTS {
            let weights = weights(dtype);
            let (rows, bytes) = weights.block(64, 500);
            let format = dtype.row_format(64);
            assert_eq!((rows, bytes.len() as u64), (500, 500 * format.row_bytes));
            let mut squares = 0.0;
            for row in bytes.chunks_exact(format.row_bytes as usize) {
                for at in 0..64 {
                    squares += value(dtype, row, format.scale_offset as usize, at).powi(2);
                }
            }
            let variance = squares / (500.0 * 64.0) * 64.0;
            assert!((variance - 1.0).abs() < 0.05, "{dtype}: {variance}");
        }
    }

    /// An element of a row, as [`DType`] describes it.
    fn value(dtype: DType, row: &[u8], scales: usize, at: usize) -> f64 {
        let half = |at: usize| f16::from_le_bytes([row[at], row[at + 1]]).to_f64();
        match (dtype, dtype.group()) {
            (_, None) => half(2 * at),
            (DType::Q4, Some(group)) => {
                let code = f64::from(row[at / 2] >> (4 * (at % 2)) & 15);
                let scale = scales + 4 * (at / group as usize);
                half(scale) * code + half(scale + 2)
            }
            (DType::Q8G32M, Some(group)) => {
                let scale = scales + 4 * (at / group as usize);
                half(scale) * f64::from(row[at]) + half(scale + 2)
            }
            (_, Some(group)) => half(scales + 2 * (at / group as usize)) * f64::from(row[at] as i8),
        }
    }

    #[test]
    fn a_seed_decides_and_dimensions_are_checked() {
        let weights = weights(DType::Q4);
        let block = |seed| {
            RandomWeights {
                seed,
                ..weights.clone()
            }
            .block(64, 10)
            .1
        };
        assert_eq!(block(1), block(1));
        assert_ne!(block(1), block(2));
        let layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 96 + 2 * 64 + 64 + 32 + 32;
        assert_eq!(weights.parameters().ok(), Some(100 * 64 + 64 + 2 * layer));
        let mut odd = weights.clone();
        odd.config.heads = 1;
        odd.config.shape.head_dim = 40;
        assert!(odd.parameters().is_err());
        odd.dtype = DType::U32;
        assert!(odd.parameters().is_err());
    }
}
