//! A decoder's forward pass in f64, written from the definitions: no cache, no chunks, angles from sines of the position itself.

use std::f64::consts::TAU;

use half::f16;
use serde_json::Value;

use crate::directory::{Spec, Weights};

/// Sparse attention: positions from `prompt` on, in layers that are not full, read only what the last full layer's heads attend to most.
#[derive(Clone, Debug)]
pub struct Sparse {
    pub full: Vec<usize>,
    pub sink: usize,
    pub recent: usize,
    pub keep: usize,
    pub prompt: usize,
}

impl Sparse {
    /// The tokens that a position reads after a full layer, given the scores of each head for all tokens up to the position.
    fn choose(&self, position: usize, scores: &[Vec<f64>]) -> Vec<usize> {
        let end = (position + 1).saturating_sub(self.recent).max(self.sink);
        let mut best: Vec<(f64, usize)> = (self.sink..end)
            .map(|token| {
                let share = |scores: &Vec<f64>| {
                    let total: f64 = scores[self.sink..end].iter().map(|score| score.exp()).sum();
                    scores[token].exp() / total
                };
                (scores.iter().map(share).fold(0.0, f64::max), token)
            })
            .collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut tokens: Vec<usize> = (0..self.sink).chain(end..=position).collect();
        tokens.extend(best.into_iter().take(self.keep).map(|(_, token)| token));
        tokens.sort_unstable();
        tokens
    }
}

/// Logits after every position.
pub fn logits(
    spec: &Spec,
    weights: &Weights,
    tokens: &[u32],
    sparse: Option<&Sparse>,
) -> Vec<Vec<f64>> {
    let get = |name: String| -> &[f64] { weights.get(&name).map_or(&[], |(_, values)| values) };
    let embedding = get("model.embed_tokens.weight".into());
    let head = if spec.tied {
        embedding
    } else {
        get("lm_head.weight".into())
    };
    let row = |token: u32| embedding[token as usize * spec.width..][..spec.width].to_vec();
    let mut x: Vec<Vec<f64>> = tokens.iter().map(|&token| row(token)).collect();
    let (frequencies, factor) = frequencies(spec);
    let mut chosen: Vec<Vec<usize>> = vec![Vec::new(); tokens.len()];
    for layer in 0..spec.layers {
        let get = |part: &str| get(format!("model.layers.{layer}.{part}"));
        let project = |part: &str, x: &[f64]| {
            let mut y = product(get(&format!("self_attn.{part}_proj.weight")), x);
            add(&mut y, get(&format!("self_attn.{part}_proj.bias")));
            y
        };
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (position, x) in x.iter().enumerate() {
            let n = norm(x, get("input_layernorm.weight"));
            let turned = |part: &str, head_norm: &str| -> Vec<f64> {
                let heads = project(part, &n);
                let heads = heads.chunks(spec.head_dim).map(|head| {
                    let weight = get(head_norm);
                    let head = if weight.is_empty() {
                        head.to_vec()
                    } else {
                        norm(head, weight)
                    };
                    rotate(&head, position as f64, &frequencies, factor)
                });
                heads.flatten().collect()
            };
            q.push(turned("q", "self_attn.q_norm.weight"));
            k.push(stored(&turned("k", "self_attn.k_norm.weight")));
            v.push(stored(&project("v", &n)));
        }
        for position in 0..x.len() {
            let sparse = sparse.filter(|sparse| position >= sparse.prompt);
            let follows = sparse.is_some_and(|sparse| !sparse.full.contains(&layer));
            let seen: Vec<usize> = if follows {
                chosen[position].clone()
            } else {
                (0..=position).collect()
            };
            let (mut attended, mut all_scores) = (Vec::new(), Vec::new());
            for head in 0..spec.heads {
                let of = |row: &[f64], head: usize| {
                    row[head * spec.head_dim..][..spec.head_dim].to_vec()
                };
                let (query, kv_head) = (of(&q[position], head), head * spec.kv_heads / spec.heads);
                let scores: Vec<f64> = seen
                    .iter()
                    .map(|&token| {
                        dot(&query, &of(&k[token], kv_head)) / (spec.head_dim as f64).sqrt()
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let shares: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let total: f64 = shares.iter().sum();
                let mut sum = vec![0.0; spec.head_dim];
                for (share, &token) in shares.iter().zip(&seen) {
                    sum.iter_mut()
                        .zip(of(&v[token], kv_head))
                        .for_each(|(sum, v)| *sum += share / total * v);
                }
                attended.extend(sum);
                all_scores.push(scores);
            }
            if let Some(sparse) = sparse.filter(|_| !follows) {
                chosen[position] = sparse.choose(position, &all_scores);
            }
            let x = &mut x[position];
            add(x, &product(get("self_attn.o_proj.weight"), &attended));
            let n = norm(x, get("post_attention_layernorm.weight"));
            let gate = product(get("mlp.gate_proj.weight"), &n);
            let up = product(get("mlp.up_proj.weight"), &n);
            let inner: Vec<f64> = gate
                .iter()
                .zip(up)
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            add(x, &product(get("mlp.down_proj.weight"), &inner));
        }
    }
    let last = get("model.norm.weight".into());
    x.iter().map(|x| product(head, &norm(x, last))).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn product(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks(x.len()).map(|row| dot(row, x)).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn norm(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + 1e-5).sqrt();
    x.iter()
        .zip(weight)
        .map(|(x, weight)| x * scale * weight)
        .collect()
}

/// As the cache holds it.
fn stored(row: &[f64]) -> Vec<f64> {
    row.iter()
        .map(|&value| f16::from_f64(value).to_f64())
        .collect()
}

/// Pairs `(j, j + dim / 2)`, turned by `position * frequency`.
fn rotate(head: &[f64], position: f64, frequencies: &[f64], factor: f64) -> Vec<f64> {
    let half = head.len() / 2;
    let mut turned = head.to_vec();
    for (j, frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = (position * frequency).sin_cos();
        turned[j] = factor * (head[j] * cos - head[j + half] * sin);
        turned[j + half] = factor * (head[j + half] * cos + head[j] * sin);
    }
    turned
}

/// The frequency of each pair, and the factor on queries and keys, as Hugging Face's `transformers` documents the scalings.
fn frequencies(spec: &Spec) -> (Vec<f64>, f64) {
    let (dim, base) = (spec.head_dim as f64, 1000f64);
    let plain: Vec<f64> = (0..spec.head_dim / 2)
        .map(|j| 1.0 / base.powf(2.0 * j as f64 / dim))
        .collect();
    let Some(scaling) = &spec.rope_scaling else {
        return (plain, 1.0);
    };
    let number = |field: &str| {
        scaling
            .get(field)
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN)
    };
    let (factor, original) = (number("factor"), number("original_max_position_embeddings"));
    let kind = scaling
        .get("rope_type")
        .or_else(|| scaling.get("type"))
        .and_then(Value::as_str);
    match kind {
        Some("linear") => (plain.iter().map(|f| f / factor).collect(), 1.0),
        Some("llama3") => {
            let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
            let scaled = plain.iter().map(|f| {
                let wavelength = TAU / f;
                if wavelength < original / high {
                    *f
                } else if wavelength > original / low {
                    f / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            });
            (scaled.collect(), 1.0)
        }
        Some("yarn") => {
            let correction =
                |rotations: f64| dim * (original / (rotations * TAU)).ln() / (2.0 * base.ln());
            let (low, high) = (
                correction(32.0).floor().max(0.0),
                correction(1.0).ceil().min(dim - 1.0),
            );
            let scaled = plain.iter().enumerate().map(|(j, f)| {
                let ramp = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                f / factor * ramp + f * (1.0 - ramp)
            });
            (scaled.collect(), 0.1 * factor.ln() + 1.0)
        }
        other => panic!("the reference knows no scaling {other:?}"),
    }
}
