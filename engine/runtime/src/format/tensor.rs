//! What a file says about one tensor.

use super::GgmlType;

/// A tensor of a file: its name, shape and element type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// The shape in row-major order: outermost first, the row's length last. GGUF stores it the other way round.
    pub shape: Vec<u64>,
    /// How the elements are stored.
    pub element: GgmlType,
}

impl TensorInfo {
    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Elements of a row: the last dimension; 1 for a scalar.
    pub fn cols(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows: the product of all dimensions but the last; 1 for a vector.
    pub fn rows(&self) -> u64 {
        // Parsers admit only tensors whose number of elements fits.
        self.shape
            .iter()
            .rev()
            .skip(1)
            .fold(1, |rows: u64, &size| rows.saturating_mul(size))
    }
}
