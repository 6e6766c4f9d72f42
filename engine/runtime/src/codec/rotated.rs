//! Rows in 8 or 4 bits: around the layer's mean, rotated by a Hadamard matrix, in groups of 32.

use std::sync::Arc;

use longwave_contract::kv::{RowShape, ScaleRule};
use longwave_contract::op::AttendStored;

use super::Codec;
use super::transform::{Component, Transform};

/// Latents that share a scale.
const GROUP: u32 = AttendStored::GROUP;

/// The codecs of layers with these means, `bits` a value and an f16 scale for every 32: 28.1 % of f16 rows at 4 bits, 53.1 % at 8.
///
/// Subtracting the mean takes the keys' biases out, without which 4 bits fail on some models; rotating each head spreads what few
/// elements hold over all.
pub fn rotated(shape: RowShape, means: &[Vec<f32>], bits: u32) -> Vec<Arc<dyn Codec>> {
    let cols = shape.cols();
    let size = 1 << shape.head_dim.trailing_zeros();
    let matrix = hadamard(cols, size);
    // The matrix is symmetric, and its own inverse.
    let maps = Transform::maps(cols, cols, &matrix, &matrix);
    let component = Component {
        bits,
        step: 1.0,
        zero: ((1u32 << bits) - 1) as f32 / 2.0,
        energy: 1.0,
    };
    let components = vec![component; cols as usize];
    let metric = vec![1.0; cols as usize];
    let codec = |mean: &Vec<f32>| {
        let transform = Transform::new(
            if bits == 8 { "q8" } else { "q4" },
            mean,
            &metric,
            &components,
            Some(maps.clone()),
            ScaleRule::Symmetric,
            GROUP,
            None,
            true,
            0,
        );
        // Heads that are no power of two of elements are rotated in parts.
        let rotated = size == shape.head_dim && size >= GROUP;
        Transform {
            rotated,
            ..transform
        }
        .shared()
    };
    means.iter().map(codec).collect()
}

/// Hadamard matrices of `size` along the diagonal, scaled to be orthonormal.
fn hadamard(cols: u32, size: u32) -> Vec<f32> {
    let scale = 1.0 / (size as f32).sqrt();
    let element = |row: u32, col: u32| {
        if row / size != col / size {
            return 0.0;
        }
        let odd = ((row % size) & (col % size)).count_ones() % 2 == 1;
        if odd { -scale } else { scale }
    };
    (0..cols * cols)
        .map(|index| element(index / cols, index % cols))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_is_its_own_inverse() {
        let (cols, size) = (12usize, 4);
        let matrix = hadamard(cols as u32, size);
        for row in 0..cols {
            for col in 0..cols {
                let product: f32 = (0..cols)
                    .map(|k| matrix[row * cols + k] * matrix[k * cols + col])
                    .sum();
                assert!((product - f32::from(u8::from(row == col))).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn shares_are_those_of_codes_and_scales() {
        let shape = RowShape {
            kv_heads: 3,
            head_dim: 64,
        };
        for (bits, share) in [(4, 0.281_25), (8, 0.531_25)] {
            let codecs = rotated(shape, &[vec![0.0; 384]], bits);
            let bytes = codecs[0].shape().bytes_per_token();
            assert_eq!(bytes / shape.raw_bytes() as f64, share);
        }
    }
}
