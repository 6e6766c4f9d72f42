//! Models: what they are, how they are loaded, and what they record.

mod config;
mod fit;
mod from_gguf;
mod from_hugging_face;
mod layout;
mod load;
mod names;
mod random;
mod record;
mod rope;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longwave_contract::op::ROPE_LOW;
use longwave_contract::{Allocation, Backend, Tensor};
use sha2::{Digest, Sha256};

pub use config::{Architecture, ModelConfig, RopeScaling};
pub use load::{LoadEvent, WeightSummary};
pub use random::RandomWeights;
pub(crate) use record::{
    ChoiceTensors, LayerCache, ResidentStep, Restoration, RestoreStep, SampleTensors, StepTensors,
    Tile, as_list,
};
pub use rope::Rope;
pub use source::ModelSource;

use crate::codec::Fingerprint;
use crate::error::Error;

/// The weights of one layer, by their names in the ops that use them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Layer {
    pub attention_norm: Tensor,
    pub w_q: Tensor,
    pub w_k: Tensor,
    pub w_v: Tensor,
    pub b_q: Option<Tensor>,
    pub b_k: Option<Tensor>,
    pub b_v: Option<Tensor>,
    pub q_norm: Option<Tensor>,
    pub k_norm: Option<Tensor>,
    pub w_o: Tensor,
    pub b_o: Option<Tensor>,
    pub feed_forward_norm: Tensor,
    pub w_gate: Tensor,
    pub w_up: Tensor,
    pub w_down: Tensor,
}

/// All weights of a model, on one device.
#[derive(Debug)]
pub(crate) struct Weights {
    pub embedding: Tensor,
    pub rope: Tensor,
    pub layers: Vec<Layer>,
    pub norm: Tensor,
    pub output: Tensor,
    /// Own the buffers that the tensors name.
    pub buffers: Vec<Allocation>,
}

/// A model whose weights are on a device.
pub struct Model {
    path: PathBuf,
    config: ModelConfig,
    weights: Weights,
    backend: Arc<dyn Backend>,
}

impl Model {
    /// Where the model came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its dimensions.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Positions that its rotary table reaches: the context that it was loaded for, rounded up.
    pub(crate) fn rope_positions(&self) -> u32 {
        (self.weights.rope.rows - ROPE_LOW).saturating_mul(ROPE_LOW)
    }

    /// Whether keys have a norm.
    pub(crate) fn has_key_norms(&self) -> bool {
        let mut layers = self.weights.layers.iter();
        layers.any(|layer| layer.k_norm.is_some())
    }

    /// The output projection of a layer's attention.
    pub(crate) fn output_projection(&self, layer: usize) -> Tensor {
        self.weights.layers[layer].w_o
    }

    /// The norm before the output projection, `[width]`.
    pub(crate) fn output_norm(&self) -> Result<Vec<f32>, Error> {
        let tensor = self.weights.norm;
        let mut values = vec![0.0f32; tensor.cols as usize];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.backend.read(tensor.buffer, tensor.offset, bytes)?;
        Ok(values)
    }

    /// The weights of a layer's key head norm, where it has one.
    pub(crate) fn key_norm(&self, layer: usize) -> Result<Option<Vec<f32>>, Error> {
        let Some(tensor) = self.weights.layers[layer].k_norm else {
            return Ok(None);
        };
        let mut values = vec![0.0f32; tensor.cols as usize];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.backend().read(tensor.buffer, tensor.offset, bytes)?;
        Ok(Some(values))
    }

    /// What tells this model apart from others: its dimensions, and a hash over a part of its weights, as they lie on the device.
    ///
    /// # Errors
    /// The device fails.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        /// Bytes of each layer that are hashed.
        const BYTES: u64 = 4096;
        let mut hash = Sha256::new();
        for layer in &self.weights.layers {
            let length = layer.w_k.bytes().min(BYTES) / 4 * 4;
            let mut bytes = vec![0u8; length as usize];
            let (buffer, offset) = (layer.w_k.buffer, layer.w_k.offset);
            self.backend().read(buffer, offset, &mut bytes)?;
            hash.update(layer.w_k.dtype.name());
            hash.update(&bytes);
        }
        let digest = hash.finalize();
        Ok(Fingerprint {
            architecture: self.config.architecture.name().to_owned(),
            layers: self.config.layers,
            kv_heads: self.config.shape.kv_heads,
            head_dim: self.config.shape.head_dim,
            weights: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Bytes of its weights on the device, tables included.
    pub fn bytes(&self) -> u64 {
        self.weights.buffers.iter().map(Allocation::bytes).sum()
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
