//! What a decoder model does in a step, as ops.

use longwave_contract::kv::KeySpace;
use longwave_contract::op::{
    Attend, Embed, GateUpSilu, LinearAdd, NormLinear, Observe, QkvRopeAppend, Select,
};
use longwave_contract::{CheckError, Recording, Tensor};

use super::Model;
use crate::policy::{Policy, Role};

/// The tensors that a step reads and writes, beside weights and cache. `n` is the row capacity of the recording, `m` the number of rows
/// whose logits it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTensors {
    /// Row descriptors, `u32[n, 8]`.
    pub rows: Tensor,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Rows whose logits are asked for, `u32[1, m]`.
    pub select: Tensor,
    /// How many of those count, `u32[1, 1]`.
    pub selected: Tensor,
    /// Views, `u32[v, 4]`.
    pub views: Tensor,
    /// Entries of the views, `u32[1, e]`.
    pub entries: Tensor,
    /// The residual stream, `f32[n, width]`.
    pub x: Tensor,
    /// Queries, `f32[n, heads * head_dim]`.
    pub q: Tensor,
    /// Attention's result, `f32[n, heads * head_dim]`.
    pub attended: Tensor,
    /// The feed-forward layer's inner values, `f32[n, inner]`.
    pub inner: Tensor,
    /// Logits, `f32[m, vocabulary]`; a recording without them ends after the last layer.
    pub logits: Option<Tensor>,
    /// The most tokens that any row sees.
    pub longest: u32,
    /// What following layers read, in a decode step of a policy that selects.
    pub choice: Option<ChoiceTensors>,
}

/// The tensors by which observers choose and followers read. Row, view and pick of a sequence have the same index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChoiceTensors {
    /// Picks, `u32[p, 4]`.
    pub picks: Tensor,
    /// Scores of candidates, `f32[p, longest]`.
    pub scores: Tensor,
    /// Entries that were chosen, `u32[p, m]`.
    pub entries: Tensor,
    /// Views of those entries, `u32[v, 4]`.
    pub views: Tensor,
    /// The most tokens that any row reads of them.
    pub longest: u32,
}

impl ChoiceTensors {
    /// All picks' entries as one list, as views name them; rows are padded to whole quads.
    fn list(&self) -> Tensor {
        let (rows, cols) = (self.entries.rows, self.entries.cols.next_multiple_of(4));
        Tensor {
            rows: 1,
            cols: rows * cols,
            ..self.entries
        }
    }
}

impl Model {
    /// Records one step: embeddings, all layers, and the logits of the selected rows.
    ///
    /// `cache` gives the raw rows of a layer.
    ///
    /// # Errors
    /// When a tensor does not fit its op, which means that the model's weights or the step's tensors are misshapen.
    pub fn record(
        &self,
        label: impl Into<String>,
        step: &StepTensors,
        policy: &dyn Policy,
        cache: impl Fn(usize) -> Tensor,
    ) -> Result<Recording, CheckError> {
        let mut recording = Recording::new(label);
        let config = self.config();
        let StepTensors {
            rows,
            count,
            x,
            q,
            attended,
            inner,
            ..
        } = *step;
        recording.push(Embed {
            table: self.weights.embedding,
            rows,
            count,
            out: x,
        })?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let kv = cache(index);
            recording.push(QkvRopeAppend {
                x,
                norm: layer.attention_norm,
                epsilon: config.epsilon,
                w_q: layer.w_q,
                w_k: layer.w_k,
                w_v: layer.w_v,
                b_q: layer.b_q,
                b_k: layer.b_k,
                b_v: layer.b_v,
                q_norm: layer.q_norm,
                k_norm: layer.k_norm,
                rope: self.weights.rope,
                rows,
                count,
                shape: config.shape,
                space: KeySpace::Roped,
                q,
                kv,
            })?;
            let dense = Attend {
                q,
                kv,
                rows,
                count,
                views: step.views,
                entries: step.entries,
                shape: config.shape,
                scale: 1.0 / (config.shape.head_dim as f32).sqrt(),
                longest: step.longest,
                out: attended,
            };
            match (policy.role(index as u32), step.choice) {
                (Role::Follow, Some(choice)) => recording.push(Attend {
                    views: choice.views,
                    entries: choice.list(),
                    longest: choice.longest,
                    ..dense
                })?,
                (Role::Observe, Some(choice)) => {
                    recording.push(dense)?;
                    recording.push(Observe {
                        q,
                        kv,
                        rows,
                        views: step.views,
                        entries: step.entries,
                        picks: choice.picks,
                        count,
                        shape: config.shape,
                        scale: dense.scale,
                        scores: choice.scores,
                    })?;
                    recording.push(Select {
                        scores: choice.scores,
                        rows,
                        views: step.views,
                        entries: step.entries,
                        picks: choice.picks,
                        count,
                        out: choice.entries,
                    })?;
                }
                (Role::Dense | Role::Observe | Role::Follow, _) => recording.push(dense)?,
            }
            recording.push(LinearAdd {
                a: attended,
                weight: layer.w_o,
                bias: layer.b_o,
                count,
                x,
            })?;
            recording.push(GateUpSilu {
                x,
                norm: layer.feed_forward_norm,
                epsilon: config.epsilon,
                w_gate: layer.w_gate,
                w_up: layer.w_up,
                count,
                out: inner,
            })?;
            recording.push(LinearAdd {
                a: inner,
                weight: layer.w_down,
                bias: None,
                count,
                x,
            })?;
        }
        if let Some(out) = step.logits {
            recording.push(NormLinear {
                x,
                select: step.select,
                norm: self.weights.norm,
                epsilon: config.epsilon,
                weight: self.weights.output,
                count: step.selected,
                out,
            })?;
        }
        Ok(recording)
    }
}
