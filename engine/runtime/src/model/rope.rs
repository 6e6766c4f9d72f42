//! Rotary frequencies, and the table that the `qkv_rope_append` op reads.

use std::sync::Arc;

use longwave_contract::op::ROPE_LOW;
use longwave_contract::{Allocation, Backend, BackendError, BufferDesc, DType, Tensor};

use super::config::{ModelConfig, RopeScaling};

/// Angle per position of each rotary pair, and the factor on cosines and sines.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `head_dim / 2` angles in radians per position.
    pub frequencies: Vec<f64>,
    /// The attention factor (YaRN), 1 otherwise.
    pub factor: f64,
}

impl Rope {
    /// The frequencies of a model: `base^(-2 j / head_dim)` for pair `j`, changed by its scaling.
    pub fn new(config: &ModelConfig) -> Rope {
        let dim = f64::from(config.shape.head_dim);
        let pairs = config.shape.head_dim / 2;
        let plain = |pair: u32| config.rope_base.powf(-2.0 * f64::from(pair) / dim);
        let mut frequencies: Vec<f64> = (0..pairs).map(plain).collect();
        let mut factor = 1.0;
        match config.rope_scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Llama3 {
                factor,
                low_frequency_factor,
                high_frequency_factor,
                original_context,
            } => {
                for frequency in &mut frequencies {
                    let wavelength = std::f64::consts::TAU / *frequency;
                    let ramp = (original_context / wavelength - low_frequency_factor)
                        / (high_frequency_factor - low_frequency_factor);
                    let keep = ramp.clamp(0.0, 1.0);
                    *frequency *= keep + (1.0 - keep) / factor;
                }
            }
            RopeScaling::Yarn {
                factor: divisor,
                original_context,
                beta_fast,
                beta_slow,
                attention_factor,
            } => {
                // The pair that turns `rotations` times within the original context.
                let pair_of = |rotations: f64| {
                    dim * (original_context / (rotations * std::f64::consts::TAU)).ln()
                        / (2.0 * config.rope_base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(dim - 1.0);
                let width = if high > low { high - low } else { 0.001 };
                for (pair, frequency) in frequencies.iter_mut().enumerate() {
                    let divide = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                    *frequency *= (1.0 - divide) + divide / divisor;
                }
                factor = attention_factor.unwrap_or(if divisor <= 1.0 {
                    1.0
                } else {
                    0.1 * divisor.ln() + 1.0
                });
            }
        }
        if let Some(factors) = &config.rope_factors {
            for (frequency, divisor) in frequencies.iter_mut().zip(factors) {
                *frequency /= f64::from(*divisor);
            }
        }
        Rope {
            frequencies,
            factor,
        }
    }

    /// Rows of the table for positions below `context`.
    pub fn table_rows(context: u32) -> u32 {
        ROPE_LOW + context.div_ceil(ROPE_LOW).max(1)
    }

    /// The table for positions below `context`: `[cos][sin]` of `low` (times the factor), then of `256 * high`; row-major,
    /// `head_dim` columns.
    pub fn table(&self, context: u32) -> Vec<f32> {
        let rows = Self::table_rows(context);
        let mut table = Vec::with_capacity(rows as usize * self.frequencies.len() * 2);
        for row in 0..rows {
            let (position, factor) = if row < ROPE_LOW {
                (f64::from(row), self.factor)
            } else {
                (f64::from(row - ROPE_LOW) * f64::from(ROPE_LOW), 1.0)
            };
            table.extend(
                self.frequencies
                    .iter()
                    .map(|f| ((position * f).cos() * factor) as f32),
            );
            table.extend(
                self.frequencies
                    .iter()
                    .map(|f| ((position * f).sin() * factor) as f32),
            );
        }
        table
    }

    /// What holds the table of a model for positions below `context`.
    pub(super) fn desc(config: &ModelConfig, context: u32) -> BufferDesc {
        let rows = Self::table_rows(context);
        BufferDesc::of("rotary table", DType::F32, rows, config.shape.head_dim)
    }

    /// Brings a model's table for positions below `context` to a device.
    pub(super) fn place(
        backend: &Arc<dyn Backend>,
        config: &ModelConfig,
        context: u32,
    ) -> Result<(Tensor, Allocation), BackendError> {
        let buffer = Allocation::new(backend, &Self::desc(config, context))?;
        let table = Rope::new(config).table(context);
        backend.write(buffer.id(), 0, bytemuck::cast_slice(&table))?;
        let (rows, cols) = (Self::table_rows(context), config.shape.head_dim);
        Ok((Tensor::new(buffer.id(), DType::F32, rows, cols), buffer))
    }
}

#[cfg(test)]
mod tests {
    use longwave_contract::kv::RowShape;

    use super::*;
    use crate::model::config::Architecture;

    fn config(rope_scaling: RopeScaling) -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Llama,
            layers: 1,
            width: 64,
            inner: 64,
            heads: 1,
            shape: RowShape {
                kv_heads: 1,
                head_dim: 128,
            },
            vocabulary: 1,
            context: 1 << 20,
            epsilon: 1e-5,
            rope_base: 500_000.0,
            rope_scaling,
            rope_factors: None,
            tied: None,
        }
    }

    #[test]
    fn the_table_gives_the_angle_of_any_position() {
        let rope = Rope::new(&config(RopeScaling::None));
        let table = rope.table(1 << 20);
        let row = |r: usize| &table[r * 128..(r + 1) * 128];
        for position in [0usize, 255, 256, 70_001, (1 << 20) - 1] {
            let (low, high) = (row(position % 256), row(256 + position / 256));
            for pair in [0, 1, 31, 63] {
                let cos = low[pair] * high[pair] - low[64 + pair] * high[64 + pair];
                let angle = position as f64 * rope.frequencies[pair];
                assert!(
                    (f64::from(cos) - angle.cos()).abs() < 3e-7,
                    "position {position}, pair {pair}"
                );
            }
        }
    }

    #[test]
    fn llama3_keeps_fast_pairs_and_divides_slow_ones() {
        let plain = Rope::new(&config(RopeScaling::None));
        let scaled = Rope::new(&config(RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192.0,
        }));
        assert_eq!(scaled.frequencies[0], plain.frequencies[0]);
        assert!((scaled.frequencies[63] - plain.frequencies[63] / 8.0).abs() < 1e-12);
        assert!(scaled.frequencies[32] <= plain.frequencies[32]);
    }

    #[test]
    fn yarn_scales_attention_and_slow_pairs() {
        let plain = Rope::new(&config(RopeScaling::None));
        let scaled = Rope::new(&config(RopeScaling::Yarn {
            factor: 4.0,
            original_context: 32_768.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
        }));
        assert!((scaled.factor - 1.138_629).abs() < 1e-5);
        assert_eq!(scaled.frequencies[0], plain.frequencies[0]);
        assert!((scaled.frequencies[63] - plain.frequencies[63] / 4.0).abs() < 1e-12);
    }
}
