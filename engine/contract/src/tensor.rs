//! Tensors: views of a buffer as a matrix.

use crate::dtype::DType;

/// Names a buffer of one backend. Ids are never used again within a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// A view of a buffer as `rows x cols` elements, rows padded to 16 bytes ([`DType::row_bytes`]). Vectors are matrices of one row.
///
/// Every tensor starts at a multiple of [`Tensor::ALIGN`] bytes, so that any backend can bind it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The buffer that holds the elements.
    pub buffer: BufferId,
    /// Bytes from the buffer's start to the first row.
    pub offset: u64,
    /// The element type.
    pub dtype: DType,
    /// Rows. In a recording this is a capacity; how many rows count at a step is read from device memory.
    pub rows: u32,
    /// Elements of a row.
    pub cols: u32,
}

impl Tensor {
    /// Alignment of a tensor's first byte: the largest storage-offset alignment that a WebGPU device may demand.
    pub const ALIGN: u64 = 256;

    /// A tensor that starts its buffer.
    pub const fn new(buffer: BufferId, dtype: DType, rows: u32, cols: u32) -> Self {
        Tensor {
            buffer,
            offset: 0,
            dtype,
            rows,
            cols,
        }
    }

    /// The same view, `offset` bytes into the buffer.
    pub const fn at(self, offset: u64) -> Self {
        Tensor { offset, ..self }
    }

    /// Bytes from one row to the next.
    pub const fn row_bytes(&self) -> u64 {
        self.dtype.row_bytes(self.cols)
    }

    /// Bytes of the whole view, padding included.
    pub const fn bytes(&self) -> u64 {
        self.row_bytes() * self.rows as u64
    }
}

impl std::fmt::Display for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}, {}]", self.dtype, self.rows, self.cols)
    }
}
