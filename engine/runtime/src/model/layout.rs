//! Which tensors a model has, and what becomes of them once they are on a device.

use std::collections::HashMap;

use longwave_contract::{Allocation, Tensor};

use super::config::{Architecture, ModelConfig};
use super::names::{Name, Part};
use super::{Layer, Weights};
use crate::error::Error;

/// A tensor that a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub name: Name,
    pub rows: u32,
    pub cols: u32,
    /// Whether it is a weight matrix, which may be quantised, rather than a vector of f32.
    pub matrix: bool,
}

/// Every tensor of a model. `is_there` says whether one that some models have, and this one may do without, is.
///
/// # Errors
/// What `is_there` fails with.
pub(super) fn places(
    config: &ModelConfig,
    mut is_there: impl FnMut(Name) -> Result<bool, Error>,
) -> Result<Vec<Place>, Error> {
    let (width, inner) = (config.width, config.inner);
    let (q, kv, vocabulary) = (config.q_width(), config.shape.width(), config.vocabulary);
    let matrix = |name, rows, cols| Place {
        name,
        rows,
        cols,
        matrix: true,
    };
    let vector = |name, cols| Place {
        name,
        rows: 1,
        cols,
        matrix: false,
    };
    let mut places = vec![
        matrix(Name::Embedding, vocabulary, width),
        vector(Name::OutputNorm, width),
    ];
    let apart = match config.tied {
        Some(tied) => !tied,
        None => is_there(Name::Output)?,
    };
    if apart {
        places.push(matrix(Name::Output, vocabulary, width));
    }
    for layer in 0..config.layers {
        let name = |part| Name::Layer(layer, part);
        for part in [Part::AttentionNorm, Part::FeedForwardNorm] {
            places.push(vector(name(part), width));
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
            places.push(matrix(name(part), rows, cols));
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
            if required || is_there(name(part))? {
                places.push(vector(name(part), cols));
            }
        }
    }
    Ok(places)
}

impl Weights {
    /// Puts a model's tensors where ops find them. `missing` makes the error for one that must be there and is not.
    ///
    /// # Errors
    /// That one.
    pub(super) fn new(
        config: &ModelConfig,
        tensors: &HashMap<Name, Tensor>,
        rope: Tensor,
        buffers: Vec<Allocation>,
        missing: impl Fn(Name) -> Error,
    ) -> Result<Weights, Error> {
        let need = |name: Name| tensors.get(&name).copied().ok_or_else(|| missing(name));
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
            layers: (0..config.layers).map(layer).collect::<Result<_, _>>()?,
            norm: need(Name::OutputNorm)?,
            // A model without an output matrix uses its embeddings.
            output: tensors.get(&Name::Output).copied().unwrap_or(embedding),
            buffers,
        })
    }
}
