//! What an op must do at least: bytes that it moves, arithmetic that it needs.

use std::iter::Sum;
use std::ops::Add;

use anyhow::Result;
use bytemuck::Pod;
use longwave_contract::{Backend, Op, Recording, Tensor};
use longwave_runtime::model::ModelConfig;

use crate::ceiling::Ceiling;
use crate::op;

/// The least that an op or a step does: each operand once, as far as its rows count, and the multiplications and additions of its formula.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes that are read or written.
    pub bytes: f64,
    /// Floating-point operations: a multiplication with an addition is two.
    pub flops: f64,
}

impl Work {
    /// Reads and writes only.
    pub fn moves(bytes: u64) -> Self {
        Work {
            bytes: bytes as f64,
            flops: 0.0,
        }
    }

    /// `rows` rows of input times matrices, all of one row length, that are read once; norms and biases are too small to count.
    pub fn matmul(rows: u64, input: Tensor, weights: &[Tensor]) -> Self {
        let outputs: u64 = weights.iter().map(|weight| u64::from(weight.rows)).sum();
        let matrices: u64 = weights.iter().map(Tensor::bytes).sum();
        Work {
            bytes: (matrices + rows * (input.row_bytes() + 4 * outputs)) as f64,
            flops: 2.0 * rows as f64 * f64::from(input.cols) * outputs as f64,
        }
    }

    /// What an op does, for as many rows as its tables on the device say.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn of(op: &Op, backend: &dyn Backend) -> Result<Work> {
        op::work(op, &Tables { backend })
    }

    /// What a whole step does, for as many rows as its tables on the device say.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn of_step(recording: &Recording, backend: &dyn Backend) -> Result<Work> {
        let ops = recording.ops().iter();
        ops.map(|op| Work::of(op, backend)).sum()
    }

    /// A share of it, for each of so many.
    pub fn shared_by(self, count: u32) -> Work {
        let count = f64::from(count.max(1));
        Work {
            bytes: self.bytes / count,
            flops: self.flops / count,
        }
    }

    /// The least seconds that it takes at a ceiling.
    pub fn seconds(&self, ceiling: &Ceiling) -> f64 {
        (self.bytes / ceiling.bandwidth).max(self.flops / ceiling.flops)
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            bytes: self.bytes + other.bytes,
            flops: self.flops + other.flops,
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(works: I) -> Work {
        works.fold(Work::default(), Add::add)
    }
}

/// The tables that say how much of an op's operands counts.
pub struct Tables<'a> {
    backend: &'a dyn Backend,
}

impl Tables<'_> {
    /// The number that a `u32[1, 1]` holds.
    pub fn count(&self, tensor: Tensor) -> Result<u64> {
        let mut word = [0u32];
        let bytes = bytemuck::cast_slice_mut(&mut word);
        self.backend.read(tensor.buffer, tensor.offset, bytes)?;
        Ok(word[0].into())
    }

    /// The first `count` rows of a table, of which each is one `T`.
    pub fn rows<T: Pod>(&self, tensor: Tensor, count: u64) -> Result<Vec<T>> {
        let mut rows = vec![T::zeroed(); count.min(tensor.rows.into()) as usize];
        if !rows.is_empty() {
            let bytes = bytemuck::cast_slice_mut(&mut rows);
            self.backend.read(tensor.buffer, tensor.offset, bytes)?;
        }
        Ok(rows)
    }
}

/// The arithmetic of taking `tokens` tokens in after `depth` others, attended to densely, with the logits of the last.
pub fn prompt_flops(config: &ModelConfig, depth: u32, tokens: u32) -> f64 {
    let (width, q) = (f64::from(config.width), f64::from(config.q_width()));
    let (kv, inner) = (f64::from(config.shape.width()), f64::from(config.inner));
    let weights = width * (2.0 * q + 2.0 * kv + 3.0 * inner);
    let (depth, tokens) = (f64::from(depth), f64::from(tokens));
    let visible = tokens * depth + tokens * (tokens + 1.0) / 2.0;
    let layers = f64::from(config.layers);
    layers * (2.0 * weights * tokens + 4.0 * q * visible)
        + 2.0 * width * f64::from(config.vocabulary)
}
