//! Fits the closed-form codec of one layer: its transform, and how well it does at every size.
//!
//! With `d` the residual of a token, `G` the diagonal of the metric, and `U` the eigenvectors of the covariance of `G^(1/2) d`, latents are
//! `z = S^-1 U^T G^(1/2) d` with `S` the square roots of the eigenvalues: a Karhunen-Loeve transform whose mean square error is the weighted
//! error of the row. Bits go to latents one at a time, each to where it saves most (reverse water-filling), as measured on the sample.

use std::ops::RangeInclusive;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par, Side};
use half::f16;
use longwave_contract::kv::{BLOCK, GAIN_LATENTS, LatentShape, ReferenceShape, ScaleRule};

use super::collect::LayerSample;
use super::residual::Blocks;
use crate::codec::{Component, Transform};
use crate::error::Error;

/// The most bits of a latent.
const MOST_BITS: usize = 8;

/// Distances of two codes that serve a Gaussian variable of unit variance best, for 1 to 8 bits.
const STEPS: [f32; MOST_BITS] = [1.596, 0.996, 0.586, 0.335, 0.188, 0.104, 0.057, 0.031];

/// Factors on those that are tried for each latent.
const FACTORS: [f32; 6] = [0.7, 0.85, 1.0, 1.2, 1.5, 2.0];

/// Tokens on which sizes are compared.
const COMPARED: usize = 1536;

/// Eigenvalues are at least this share of the largest: latents below hold nothing that 16 bits could.
const LEAST: f64 = 1e-9;

/// One way to code a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// Which of the layer's bases.
    pub basis: usize,
    /// Bits of a token's codes.
    pub bits: usize,
    /// Escapes of a block.
    pub escapes: u32,
    /// Bytes of a token.
    pub bytes: f64,
    /// Mean weighted error of a token.
    pub error: f64,
}

/// A transform, for one choice of references.
struct Basis {
    references: Option<ReferenceShape>,
    /// Eigenvectors, the largest eigenvalue first: column `i` belongs to latent `i`.
    vectors: Mat<f32>,
    /// Square roots of the eigenvalues.
    sigma: Vec<f64>,
    /// The distance of two codes of each latent, for 1 to 8 bits.
    steps: Vec<[f32; MOST_BITS]>,
    /// The latents to which bits go, one after the other.
    order: Vec<u32>,
}

/// All that is known of a layer.
pub(crate) struct Fit {
    mean: Vec<f32>,
    metric: Vec<f32>,
    bases: Vec<Basis>,
    /// Ways to code the layer, in no order.
    pub candidates: Vec<Candidate>,
}

impl Fit {
    /// Fits a layer for each choice of references.
    ///
    /// # Errors
    /// There are too few tokens, or the rows' covariance has no eigenvectors.
    pub fn new(
        sample: &LayerSample,
        choices: &[Option<ReferenceShape>],
        escapes: RangeInclusive<u32>,
    ) -> Result<Self, Error> {
        let cols = sample.metric.len();
        let blocks = Blocks::new(sample);
        if blocks.tokens() < cols.max(BLOCK as usize) {
            return Err(Error::Parameter(format!(
                "the text is too short to calibrate: {} tokens in whole blocks, expected at least {}",
                blocks.tokens(),
                cols.max(BLOCK as usize)
            )));
        }
        let mean = sample.mean(cols);
        let roots: Vec<f32> = sample.metric.iter().map(|metric| metric.sqrt()).collect();
        let mut fit = Fit {
            mean,
            metric: sample.metric.clone(),
            bases: Vec::new(),
            candidates: Vec::new(),
        };
        for &references in choices {
            let residuals = blocks.residuals(&fit.mean, &roots, references);
            let weights = blocks.weights(references);
            fit.add(references, &residuals, &weights, &escapes)?;
        }
        Ok(fit)
    }

    /// Adds a basis for weighted residuals, `[tokens][cols]`, and its candidates; `weights` has one for the error of each token.
    fn add(
        &mut self,
        references: Option<ReferenceShape>,
        residuals: &[f32],
        weights: &[f32],
        escapes: &RangeInclusive<u32>,
    ) -> Result<(), Error> {
        let cols = self.mean.len();
        let tokens = residuals.len() / cols;
        let y = MatRef::from_row_major_slice(residuals, tokens, cols);
        let mut covariance = Mat::<f32>::zeros(cols, cols);
        let share = 1.0 / tokens as f32;
        matmul(
            &mut covariance,
            Accum::Replace,
            y.transpose(),
            y,
            share,
            Par::Seq,
        );
        let covariance = Mat::from_fn(cols, cols, |i, j| f64::from(covariance[(i, j)]));
        let eigen = covariance
            .self_adjoint_eigen(Side::Lower)
            .map_err(|error| {
                Error::Parameter(format!(
                    "a layer's covariance has no eigenvectors: {error:?}"
                ))
            })?;
        // Eigenvalues come smallest first.
        let values: Vec<f64> = (0..cols)
            .rev()
            .map(|i| eigen.S().column_vector()[i])
            .collect();
        let least = values.first().map_or(0.0, |most| most * LEAST).max(1e-24);
        let sigma: Vec<f64> = values.iter().map(|value| value.max(least).sqrt()).collect();
        let vectors = Mat::from_fn(cols, cols, |i, j| eigen.U()[(i, cols - 1 - j)] as f32);

        // Whole blocks, spread over the text.
        let coded = coded(references);
        let all = tokens / coded;
        let stride = (all * coded).div_ceil(COMPARED).max(1);
        let chosen: Vec<usize> = (0..all)
            .step_by(stride)
            .flat_map(|block| block * coded..(block + 1) * coded)
            .collect();
        let some: Vec<f32> = chosen
            .iter()
            .flat_map(|&token| &residuals[token * cols..][..cols])
            .copied()
            .collect();
        let weights: Vec<f64> = chosen
            .iter()
            .map(|&token| f64::from(weights[token]))
            .collect();
        let x = MatRef::from_row_major_slice(&some, chosen.len(), cols);
        let mut z = Mat::<f32>::zeros(chosen.len(), cols);
        matmul(&mut z, Accum::Replace, x, vectors.as_ref(), 1.0, Par::Seq);
        let leading = cols.min(GAIN_LATENTS as usize);
        let gains: Vec<f32> = (0..chosen.len())
            .map(|token| {
                let squares = (0..leading).map(|i| (f64::from(z[(token, i)]) / sigma[i]).powi(2));
                f16::from_f64((squares.sum::<f64>() / leading as f64).sqrt().max(6.2e-5)).to_f32()
            })
            .collect();
        let whitened: Vec<Vec<f32>> = (0..cols)
            .map(|i| {
                let column = z.col(i);
                let value = |token: usize| (f64::from(column[token]) / sigma[i]) as f32;
                (0..chosen.len())
                    .map(|token| value(token) / gains[token])
                    .collect()
            })
            .collect();

        // What each latent loses at each number of bits, with the best distance of its codes.
        let measured: Vec<([f32; MOST_BITS], [f64; MOST_BITS + 1])> = whitened
            .iter()
            .enumerate()
            .map(|(i, values)| {
                let energy = sigma[i].powi(2) / chosen.len() as f64;
                let loss = |bits: usize, step: f32| -> f64 {
                    let tokens = values.iter().zip(&gains).zip(&weights);
                    let lost = tokens.map(|((&value, &gain), weight)| {
                        let error = gain * (value - quantised(value, bits, step));
                        weight * f64::from(error * error)
                    });
                    energy * lost.sum::<f64>()
                };
                let (mut steps, mut losses) = ([0.0; MOST_BITS], [0.0; MOST_BITS + 1]);
                losses[0] = loss(0, 1.0);
                for bits in 1..=MOST_BITS {
                    let options = FACTORS.map(|factor| STEPS[bits - 1] * factor);
                    let best = options.into_iter().map(|step| (loss(bits, step), step));
                    let best = best.fold((f64::MAX, 0.0), |a, b| if b.0 < a.0 { b } else { a });
                    (losses[bits], steps[bits - 1]) = best;
                }
                (steps, losses)
            })
            .collect();
        let (order, errors) = water_fill(&measured, &whitened, &gains, &weights, &sigma, coded);
        let basis = self.bases.len();
        let group = BLOCK as usize;
        for (bits, rows) in errors {
            for escapes in escapes.clone() {
                // Without the block's worst tokens.
                let kept: f64 = rows
                    .iter()
                    .flat_map(|block| block.iter().skip(escapes as usize))
                    .sum();
                let shape = shape(cols, bits, references, escapes);
                self.candidates.push(Candidate {
                    basis,
                    bits,
                    escapes,
                    bytes: shape.bytes_per_token(),
                    error: kept / (rows.len() * group) as f64,
                });
            }
        }
        self.bases.push(Basis {
            references,
            vectors,
            sigma,
            steps: measured.into_iter().map(|(steps, _)| steps).collect(),
            order,
        });
        Ok(())
    }

    /// The codec of a candidate.
    pub fn codec(&self, candidate: &Candidate) -> Transform {
        let basis = &self.bases[candidate.basis];
        let cols = self.mean.len();
        let mut bits = vec![0usize; cols];
        for &latent in &basis.order[..candidate.bits] {
            bits[latent as usize] += 1;
        }
        // Latents without bits are left out, down to a whole number of matrix steps.
        let mut kept: Vec<usize> = (0..cols).filter(|&i| bits[i] > 0).collect();
        let rank = kept.len().next_multiple_of(32).clamp(32.min(cols), cols);
        kept.extend((0..cols).filter(|&i| bits[i] == 0).take(rank - kept.len()));
        kept.sort_unstable();
        let components: Vec<Component> = kept
            .iter()
            .map(|&i| Component {
                bits: bits[i] as u32,
                step: if bits[i] > 0 {
                    basis.steps[i][bits[i] - 1]
                } else {
                    0.0
                },
                zero: zero(bits[i]),
                energy: basis.sigma[i].powi(2) as f32,
            })
            .collect();
        let root = |col: usize| f64::from(self.metric[col]).sqrt();
        let down: Vec<f32> = kept
            .iter()
            .flat_map(|&i| {
                (0..cols).map(move |col| {
                    (f64::from(basis.vectors[(col, i)]) * root(col) / basis.sigma[i]) as f32
                })
            })
            .collect();
        let up: Vec<f32> = (0..cols)
            .flat_map(|col| {
                kept.iter().map(move |&i| {
                    (f64::from(basis.vectors[(col, i)]) * basis.sigma[i] / root(col)) as f32
                })
            })
            .collect();
        let maps = Transform::maps(cols as u32, kept.len() as u32, &down, &up);
        Transform::new(
            "closed-form",
            &self.mean,
            &self.metric,
            &components,
            Some(maps),
            ScaleRule::Gain,
            kept.len() as u32,
            basis.references,
            false,
            candidate.escapes,
        )
    }

    /// The references of a candidate.
    pub fn references(&self, candidate: &Candidate) -> Option<ReferenceShape> {
        self.bases[candidate.basis].references
    }
}

/// Tokens of a block that are no references.
fn coded(references: Option<ReferenceShape>) -> usize {
    shape(64, 64, references, 0).coded() as usize
}

pub(super) fn shape(
    cols: usize,
    bits: usize,
    references: Option<ReferenceShape>,
    escapes: u32,
) -> LatentShape {
    LatentShape {
        cols: cols as u32,
        rank: cols as u32,
        code_bits: bits as u32,
        group: cols as u32,
        rule: ScaleRule::Gain,
        references,
        exact_f16: false,
        escapes,
    }
}

/// The code that stands for 0: half-way between the two in the middle.
fn zero(bits: usize) -> f32 {
    ((1u32 << bits) - 1) as f32 / 2.0
}

/// A number after it was coded.
fn quantised(value: f32, bits: usize, step: f32) -> f32 {
    if bits == 0 {
        return 0.0;
    }
    let zero = zero(bits);
    let code = (value / step + zero)
        .round_ties_even()
        .clamp(0.0, 2.0 * zero);
    step * (code - zero)
}

/// Weighted errors of each block's tokens, those with the largest errors first: they are the ones that escape.
type BlockErrors = Vec<Vec<f64>>;

/// Gives bits to latents, each to where it saves most. Returns the latents in that order, and at sizes from half a bit for each latent on, the errors of the
/// compared tokens.
fn water_fill(
    measured: &[([f32; MOST_BITS], [f64; MOST_BITS + 1])],
    whitened: &[Vec<f32>],
    gains: &[f32],
    weights: &[f64],
    sigma: &[f64],
    coded: usize,
) -> (Vec<u32>, Vec<(usize, BlockErrors)>) {
    let cols = measured.len();
    let tokens = gains.len();
    let error = |i: usize, token: usize, bits: usize, step: f32| {
        let value = whitened[i][token];
        let lost = f64::from(gains[token] * (value - quantised(value, bits, step)));
        sigma[i].powi(2) * lost * lost
    };
    let mut errors = vec![0.0f64; tokens];
    for i in 0..cols {
        for (token, sum) in errors.iter_mut().enumerate() {
            *sum += error(i, token, 0, 1.0);
        }
    }
    let mut bits = vec![0usize; cols];
    // The most that a bit of a latent saves, where more bits may save more together than the first alone.
    let saving = |i: usize, has: usize| {
        let losses = &measured[i].1;
        (has + 1..=MOST_BITS)
            .map(|more| (losses[has] - losses[more]) / (more - has) as f64)
            .fold(0.0, f64::max)
    };
    let mut queue: std::collections::BinaryHeap<(Ordered, std::cmp::Reverse<usize>)> = (0..cols)
        .map(|i| (Ordered(saving(i, 0)), std::cmp::Reverse(i)))
        .collect();
    let mut order = Vec::new();
    let mut sizes = Vec::new();
    // Sizes in whole words of codes, in steps of an eighth of a bit for each latent.
    let pace = (cols / 8).next_multiple_of(32).max(32);
    while let Some((_, std::cmp::Reverse(i))) = queue.pop() {
        let (steps, _) = &measured[i];
        let step = |bits: usize| if bits == 0 { 1.0 } else { steps[bits - 1] };
        let has = bits[i];
        for (token, sum) in errors.iter_mut().enumerate() {
            *sum += error(i, token, has + 1, step(has + 1)) - error(i, token, has, step(has));
        }
        bits[i] += 1;
        order.push(i as u32);
        if bits[i] < MOST_BITS {
            queue.push((Ordered(saving(i, bits[i])), std::cmp::Reverse(i)));
        }
        if order.len().is_multiple_of(pace) && order.len() >= cols / 2 {
            let blocks = errors.chunks_exact(coded).zip(weights.chunks_exact(coded));
            let blocks = blocks.map(|(errors, weights)| {
                let errors = errors.iter().map(|error| error.max(0.0));
                let mut block: Vec<(f64, f64)> = errors.zip(weights.iter().copied()).collect();
                block.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
                let weighted = block.into_iter().map(|(error, weight)| error * weight);
                weighted.collect()
            });
            sizes.push((order.len(), blocks.collect()));
        }
        if order.len() > 6 * cols {
            break;
        }
    }
    (order, sizes)
}

/// A number that is one, so that it has an order.
#[derive(Clone, Copy, PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(state: &mut u64) -> f32 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Rows of 64 elements that vary along a few directions, one of them much.
    fn sample(tokens: usize) -> LayerSample {
        let mut state = 5;
        let directions: Vec<Vec<f32>> = (0..4)
            .map(|_| (0..64).map(|_| random(&mut state)).collect())
            .collect();
        let rows = (0..tokens).flat_map(|_| {
            let weights = [4.0, 1.0, 0.5, 0.2].map(|size| size * random(&mut state));
            let row: Vec<f16> = (0..64)
                .map(|col| {
                    let sum: f32 = directions
                        .iter()
                        .zip(weights)
                        .map(|(d, w)| d[col] * w)
                        .sum();
                    f16::from_f32(3.0 + sum + 0.01 * random(&mut state))
                })
                .collect();
            row
        });
        LayerSample {
            rows: vec![rows.collect()],
            metric: vec![1.0; 64],
            ..LayerSample::default()
        }
    }

    #[test]
    fn more_bits_and_escapes_lose_less() {
        let choices = [
            None,
            Some(ReferenceShape {
                stride: 32,
                neighbours: 4,
            }),
        ];
        let fit = Fit::new(&sample(1500), &choices, 0..=6).expect("there are enough tokens");
        for basis in 0..2 {
            let of = |escapes| {
                let some = fit
                    .candidates
                    .iter()
                    .filter(move |c| (c.basis, c.escapes) == (basis, escapes));
                some.map(|c| (c.bytes, c.error)).collect::<Vec<_>>()
            };
            let (none, two) = (of(0), of(2));
            assert!(none.len() > 8, "{} sizes", none.len());
            assert!(
                none.windows(2)
                    .all(|pair| pair[1].0 > pair[0].0 && pair[1].1 <= pair[0].1 * 1.001)
            );
            assert!(
                none.iter()
                    .zip(&two)
                    .all(|(none, two)| two.0 > none.0 && two.1 < none.1)
            );
        }
        let few = Fit::new(&sample(100), &choices, 0..=6);
        assert!(few.is_err_and(|error| error.to_string().contains("too short")));
    }

    #[test]
    fn a_codec_has_the_size_of_its_candidate() {
        let choices = [Some(ReferenceShape {
            stride: 32,
            neighbours: 4,
        })];
        let fit = Fit::new(&sample(1500), &choices, 0..=6).expect("there are enough tokens");
        let candidate = fit.candidates[3];
        let shape = crate::codec::Codec::shape(&fit.codec(&candidate));
        assert_eq!(shape.bytes_per_token(), candidate.bytes);
        assert_eq!(shape.code_bits as usize, candidate.bits);
    }
}
