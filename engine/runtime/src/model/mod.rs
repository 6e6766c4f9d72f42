//! Models: what they are, how they are loaded, and what they record.

mod config;
mod from_gguf;
mod from_hugging_face;
mod load;
mod names;
mod record;
mod rope;
mod source;

use std::path::{Path, PathBuf};

use longwave_contract::op::ROPE_LOW;
use longwave_contract::{Allocation, Tensor};

pub use config::{Architecture, ModelConfig, RopeScaling};
pub use load::{LoadEvent, WeightSummary};
pub use record::{ChoiceTensors, StepTensors};
pub use rope::Rope;
pub use source::ModelSource;

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
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    config: ModelConfig,
    weights: Weights,
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

    /// Bytes of its weights on the device, tables included.
    pub fn bytes(&self) -> u64 {
        self.weights.buffers.iter().map(Allocation::bytes).sum()
    }
}
