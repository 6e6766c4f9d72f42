//! What a decoder model does in a step, as ops.

use longwave_contract::kv::KeySpace;
use longwave_contract::op::{
    Attend, AttendStored, Embed, GateUpSilu, LinearAdd, NormLinear, Observe, QkvRopeAppend, Reside,
    Restore, Rope, Sample, Select, Selected, Tokens,
};
use longwave_contract::{CheckError, Recording, Tensor};

use super::{Layer, Model};
use crate::codec::{Placed, RestoreTensors};
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
    /// How tokens are chosen by the logits, where they are.
    pub sample: Option<SampleTensors>,
    /// The most tokens that any row sees.
    pub longest: u32,
    /// What following layers read, in a decode step of a policy that selects.
    pub choice: Option<ChoiceTensors>,
}

/// The tensors by which tokens are chosen by `m` rows of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleTensors {
    /// How each is chosen, `u32[m, 12]`.
    pub samplings: Tensor,
    /// Tokens that are penalised, `u32[1, r]`.
    pub recent: Tensor,
    /// Whether any is drawn.
    pub draws: bool,
    /// The tokens, `u32[1, m]`.
    pub tokens: Tensor,
}

/// The tensors by which observers choose and followers read. Row, view and pick of a sequence have the same index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChoiceTensors {
    /// Picks, `u32[p, 4]`.
    pub picks: Tensor,
    /// Scores of candidates, `f32[p, longest]`.
    pub scores: Tensor,
    /// Entries or tokens that were chosen, `u32[p, m]`.
    pub chosen: Tensor,
    /// Views of those entries, `u32[v, 4]`.
    pub views: Tensor,
    /// The most tokens that any row reads of them.
    pub longest: u32,
    /// The overlap of choices that is planted, in thousandths.
    pub overlap: Option<u32>,
}

/// All picks' entries as one list, as views name them; rows are padded to whole quads.
pub(crate) fn as_list(entries: Tensor) -> Tensor {
    let (rows, cols) = (entries.rows, entries.cols.next_multiple_of(4));
    Tensor {
        rows: 1,
        cols: rows * cols,
        ..entries
    }
}

/// Restored rows that one recording takes at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tile {
    /// The first row.
    pub first: u32,
    /// Rows.
    pub rows: u32,
    /// How many of them count.
    pub count: Tensor,
}

/// What is restored, and how attention reads it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Restoration {
    /// Which tokens.
    pub tokens: Tokens,
    /// Rows from one sequence to the next.
    pub pitch: u32,
    /// The rows, tile by tile.
    pub tiles: Vec<Tile>,
    /// Views of the scratch rows.
    pub views: Tensor,
    /// Entries of those views.
    pub entries: Tensor,
    /// The most tokens that any row reads of them.
    pub longest: u32,
}

/// The tensors by which layers that compress restore their tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RestoreStep {
    /// Row descriptors whose slots are those of tails, `u32[n, 8]`.
    pub rows: Tensor,
    /// Stores, `u32[p, 8]`.
    pub stores: Tensor,
    /// Their raw pages and blocks.
    pub entries: Tensor,
    /// All tokens.
    pub all: Restoration,
    /// Those that an observer chose.
    pub chosen: Option<Restoration>,
    /// Working memory for rows and latents of a tile.
    pub out: Tensor,
    /// See `out`.
    pub z: Tensor,
    /// See `out`.
    pub inner: [Option<Tensor>; 3],
    /// Scratch rows that all layers share.
    pub scratch: Tensor,
    /// What `chosen` needs where restored rows stay.
    pub resident: Option<ResidentStep>,
    /// Whether attention reads heads of rotated codes as they are stored.
    pub reads_stored: bool,
}

/// The tensors by which chosen tokens stay restored; see [`Reside`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResidentStep {
    /// What is resident, for each observer.
    pub maps: Vec<Tensor>,
    /// Entries of chosen tokens, `u32[p, m]`.
    pub entries: Tensor,
    /// What a step restores.
    pub misses: Tensor,
    /// How much of it each tile takes.
    pub counts: Tensor,
    /// Rows of a tile.
    pub tile: u32,
    /// The rows of each layer that follows.
    pub rows: Vec<Option<Tensor>>,
}

impl RestoreStep {
    /// The scratch rows of a layer that reads `what`.
    fn rows_of(&self, layer: usize, what: &Restoration) -> Tensor {
        let resident = match (what.tokens, &self.resident) {
            (Tokens::Missing(_), Some(resident)) => resident.rows.get(layer).copied().flatten(),
            _ => None,
        };
        resident.unwrap_or(self.scratch)
    }
}

/// Where a layer keeps its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LayerCache<'a> {
    /// All of them as raw rows.
    Raw(Tensor),
    /// Raw rows of sinks and tails, and blocks.
    Coded {
        raw: Tensor,
        latents: Tensor,
        codec: &'a Placed,
    },
}

impl Model {
    /// Records one step: embeddings, all layers, and the logits of the selected rows.
    ///
    /// `cache` gives the rows and blocks of a layer; `restore` is there where a layer compresses.
    ///
    /// # Errors
    /// When a tensor does not fit its op, which means that the model's weights or the step's tensors are misshapen.
    pub(crate) fn record<'a>(
        &self,
        label: impl Into<String>,
        step: &StepTensors,
        restore: Option<&RestoreStep>,
        policy: &dyn Policy,
        cache: impl Fn(usize) -> LayerCache<'a>,
    ) -> Result<Recording, CheckError> {
        let mut recording = Recording::new(label);
        self.record_embedding(&mut recording, step)?;
        let mut maps = restore
            .and_then(|restore| restore.resident.as_ref())
            .map(|resident| resident.maps.iter());
        // What is chosen of a dense view are entries where the layers that follow keep raw rows, and else tokens.
        let mut observe = |recording: &mut Recording, attend: &Attend, choice: &ChoiceTensors| {
            let yields = match restore {
                None => Selected::Entries,
                Some(_) => Selected::Tokens,
            };
            record_choice(recording, attend, choice, yields)?;
            let resident = restore.and_then(|restore| Some((restore, restore.resident.as_ref()?)));
            let map = maps.as_mut().and_then(Iterator::next);
            if let (Some((restore, resident)), Some(&map)) = (resident, map) {
                recording.push(Reside {
                    tokens: choice.chosen,
                    stores: restore.stores,
                    count: attend.count,
                    resident: map,
                    out: resident.entries,
                    misses: resident.misses,
                    counts: resident.counts,
                    tile: resident.tile,
                })?;
            }
            Ok::<_, CheckError>(())
        };
        for index in 0..self.weights.layers.len() {
            let role = policy.role(index as u32);
            match (cache(index), restore) {
                (LayerCache::Raw(kv), _) => {
                    self.record_queries(&mut recording, index, step, KeySpace::Roped, kv, None)?;
                    let dense = self.attend(step, kv);
                    match (role, step.choice) {
                        (Role::Follow, Some(choice)) => recording.push(Attend {
                            views: choice.views,
                            entries: as_list(choice.chosen),
                            longest: choice.longest,
                            ..dense
                        })?,
                        (Role::Observe, Some(choice)) => {
                            recording.push(dense)?;
                            observe(&mut recording, &dense, &choice)?;
                        }
                        (Role::Dense | Role::Observe | Role::Follow, _) => recording.push(dense)?,
                    }
                }
                (
                    LayerCache::Coded {
                        raw,
                        latents,
                        codec,
                    },
                    Some(restore),
                ) => {
                    let tail = StepTensors {
                        rows: restore.rows,
                        ..*step
                    };
                    self.record_queries(
                        &mut recording,
                        index,
                        &tail,
                        KeySpace::Unroped,
                        raw,
                        None,
                    )?;
                    let what = match (role, &restore.chosen) {
                        (Role::Follow, Some(chosen)) => chosen,
                        _ => &restore.all,
                    };
                    let (scratch, cache) = (restore.rows_of(index, what), (raw, latents, codec));
                    // What observers rank has to be restored.
                    let observes = role == Role::Observe && step.choice.is_some();
                    let whole = what.tokens == Tokens::All && !observes;
                    if whole && restore.reads_stored && codec.is_rotated() {
                        let stored = self.attend_stored(index, &tail, restore, cache)?;
                        recording.push(stored)?;
                        self.record_feed_forward(&mut recording, index, step)?;
                        continue;
                    }
                    self.record_restore(&mut recording, index, restore, what, scratch, cache)?;
                    let attend = Attend {
                        views: what.views,
                        entries: what.entries,
                        longest: what.longest,
                        ..self.attend(&tail, scratch)
                    };
                    recording.push(attend)?;
                    if let (Role::Observe, Some(choice)) = (role, step.choice) {
                        observe(&mut recording, &attend, &choice)?;
                    }
                }
                (LayerCache::Coded { .. }, None) => {
                    return Err(CheckError {
                        op: "step",
                        operand: "restore",
                        expected: format!("tensors to restore layer {index} with"),
                        found: "none".into(),
                    });
                }
            }
            self.record_feed_forward(&mut recording, index, step)?;
        }
        self.record_logits(&mut recording, step)?;
        Ok(recording)
    }

    /// Records the embedding of the rows' tokens.
    pub(crate) fn record_embedding(
        &self,
        recording: &mut Recording,
        step: &StepTensors,
    ) -> Result<(), CheckError> {
        recording.push(Embed {
            table: self.weights.embedding,
            rows: step.rows,
            count: step.count,
            out: step.x,
        })
    }

    /// Records what restores tokens of a layer to scratch rows.
    pub(crate) fn record_restore(
        &self,
        recording: &mut Recording,
        layer: usize,
        step: &RestoreStep,
        what: &Restoration,
        scratch: Tensor,
        (raw, latents, codec): (Tensor, Tensor, &Placed),
    ) -> Result<(), CheckError> {
        let decoder = codec.decoder()?;
        for tile in &what.tiles {
            if let Some(decoder) = decoder {
                recording.push(Restore {
                    tokens: what.tokens,
                    stores: step.stores,
                    entries: step.entries,
                    count: tile.count,
                    pitch: what.pitch,
                    first: tile.first,
                    rows: tile.rows,
                    raw,
                    mean: decoder.mean,
                    components: decoder.components,
                    latent: codec.shape(),
                    latents,
                    decoder: decoder.matrix,
                    k_norm: self.weights.layers[layer].k_norm,
                    epsilon: self.config().epsilon,
                    rope: self.weights.rope,
                    shape: self.config().shape,
                    kv: scratch,
                })?;
                continue;
            }
            let out = Tensor {
                rows: tile.rows,
                ..step.out
            };
            codec.restore(
                recording,
                &RestoreTensors {
                    tokens: what.tokens,
                    stores: step.stores,
                    entries: step.entries,
                    count: tile.count,
                    pitch: what.pitch,
                    first: tile.first,
                    raw,
                    latents,
                    out,
                    z: step.z,
                    inner: step.inner,
                },
            )?;
            recording.push(Rope {
                x: out,
                tokens: what.tokens,
                stores: step.stores,
                count: tile.count,
                pitch: what.pitch,
                first: tile.first,
                k_norm: self.weights.layers[layer].k_norm,
                epsilon: self.config().epsilon,
                rope: self.weights.rope,
                shape: self.config().shape,
                kv: scratch,
            })?;
        }
        Ok(())
    }

    /// Records queries, and keys and values into `kv`, at each row's slot.
    pub(crate) fn record_queries(
        &self,
        recording: &mut Recording,
        layer: usize,
        step: &StepTensors,
        space: KeySpace,
        kv: Tensor,
        staged: Option<Tensor>,
    ) -> Result<(), CheckError> {
        let layer: &Layer = &self.weights.layers[layer];
        recording.push(QkvRopeAppend {
            x: step.x,
            norm: layer.attention_norm,
            epsilon: self.config().epsilon,
            w_q: layer.w_q,
            w_k: layer.w_k,
            w_v: layer.w_v,
            b_q: layer.b_q,
            b_k: layer.b_k,
            b_v: layer.b_v,
            q_norm: layer.q_norm,
            k_norm: layer.k_norm,
            rope: self.weights.rope,
            rows: step.rows,
            count: step.count,
            shape: self.config().shape,
            space,
            q: step.q,
            kv,
            staged,
        })
    }

    /// Attention over the step's own views of `kv`.
    pub(crate) fn attend(&self, step: &StepTensors, kv: Tensor) -> Attend {
        Attend {
            q: step.q,
            kv,
            rows: step.rows,
            count: step.count,
            views: step.views,
            entries: step.entries,
            shape: self.config().shape,
            scale: 1.0 / (self.config().shape.head_dim as f32).sqrt(),
            longest: step.longest,
            out: step.attended,
        }
    }

    /// Attention over all tokens of a layer as they are stored, in rotated codes.
    fn attend_stored(
        &self,
        layer: usize,
        step: &StepTensors,
        restore: &RestoreStep,
        (raw, latents, codec): (Tensor, Tensor, &Placed),
    ) -> Result<AttendStored, CheckError> {
        let dense = self.attend(step, raw);
        Ok(AttendStored {
            q: dense.q,
            rows: dense.rows,
            count: dense.count,
            stores: restore.stores,
            entries: restore.entries,
            raw,
            mean: codec.mean()?,
            latent: codec.shape(),
            latents,
            k_norm: self.weights.layers[layer].k_norm,
            epsilon: self.config().epsilon,
            rope: self.weights.rope,
            shape: dense.shape,
            scale: dense.scale,
            longest: restore.all.longest,
            out: dense.out,
        })
    }

    /// Records what follows attention in a layer.
    pub(crate) fn record_feed_forward(
        &self,
        recording: &mut Recording,
        layer: usize,
        step: &StepTensors,
    ) -> Result<(), CheckError> {
        let layer: &Layer = &self.weights.layers[layer];
        let StepTensors { count, x, .. } = *step;
        recording.push(LinearAdd {
            a: step.attended,
            weight: layer.w_o,
            bias: layer.b_o,
            count,
            x,
        })?;
        recording.push(GateUpSilu {
            x,
            norm: layer.feed_forward_norm,
            epsilon: self.config().epsilon,
            w_gate: layer.w_gate,
            w_up: layer.w_up,
            count,
            out: step.inner,
        })?;
        recording.push(LinearAdd {
            a: step.inner,
            weight: layer.w_down,
            bias: None,
            count,
            x,
        })
    }

    /// Records the logits that are asked for, and what is chosen by them.
    pub(crate) fn record_logits(
        &self,
        recording: &mut Recording,
        step: &StepTensors,
    ) -> Result<(), CheckError> {
        let Some(out) = step.logits else {
            return Ok(());
        };
        recording.push(NormLinear {
            x: step.x,
            select: step.select,
            norm: self.weights.norm,
            epsilon: self.config().epsilon,
            weight: self.weights.output,
            count: step.selected,
            out,
        })?;
        let Some(sample) = step.sample else {
            return Ok(());
        };
        recording.push(Sample {
            logits: out,
            samplings: sample.samplings,
            recent: sample.recent,
            count: step.selected,
            draws: sample.draws,
            out: sample.tokens,
        })
    }
}

/// Records the scores of what an observer's attention read, and the choice by them.
fn record_choice(
    recording: &mut Recording,
    attend: &Attend,
    choice: &ChoiceTensors,
    yields: Selected,
) -> Result<(), CheckError> {
    recording.push(Observe {
        q: attend.q,
        kv: attend.kv,
        rows: attend.rows,
        views: attend.views,
        entries: attend.entries,
        picks: choice.picks,
        count: attend.count,
        shape: attend.shape,
        scale: attend.scale,
        scores: choice.scores,
    })?;
    recording.push(Select {
        scores: choice.scores,
        rows: attend.rows,
        views: attend.views,
        entries: attend.entries,
        picks: choice.picks,
        count: attend.count,
        yields,
        overlap: choice.overlap,
        out: choice.chosen,
    })
}
