//! Codecs: how a layer's old tokens are compressed and restored.
//!
//! A codec works on rows `x = [K | V]` of one layer, keys before k-norm and the rotary embedding. It says how its blocks are laid out
//! ([`LatentShape`]), which parameters it needs on the device, and which ops compress blocks and restore tokens. It runs nothing itself. One
//! file per codec:
//!
//! - [`Transform`]: latents are a linear map of the residual. The identity, the rotated quantisers `q8` and `q4` ([`rotated`]), and the
//!   closed-form codec that calibration fits are of this kind;
//! - [`Network`]: latents are what a trained network makes of a row, less what it makes of the row's base. Published checkpoints are of this
//!   kind ([`open_checkpoint`]): each of encoder and decoder is a matrix, or two with GELU or SwiGLU between.

mod checkpoint;
mod file;
mod network;
mod rotated;
mod transform;

use std::sync::Arc;

use longwave_contract::kv::{LatentShape, RowShape};
use longwave_contract::op::Tokens;
use longwave_contract::{Allocation, Backend, BufferDesc, CheckError, DType, Recording, Tensor};

use crate::error::Error;
pub use checkpoint::{CheckpointOptions, LatentFormat, is_checkpoint, open_checkpoint};
pub use file::{Fingerprint, LayerReport, ModelCodec};
pub use network::Network;
pub use rotated::rotated;
pub use transform::{Component, Transform};

/// Whether codecs can work on rows of this shape.
///
/// # Errors
/// They have more than 65,535 elements, or no multiple of 32.
pub fn check_width(shape: RowShape) -> Result<(), Error> {
    let cols = 2 * u64::from(shape.kv_heads) * u64::from(shape.head_dim);
    if cols > 65_535 || !cols.is_multiple_of(32) {
        return Err(Error::Parameter(format!(
            "rows of {cols} elements cannot be compressed: a multiple of 32 up to 65,535 is needed"
        )));
    }
    Ok(())
}

/// A matrix of a codec, as it lies on the device.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name within the layer.
    pub name: &'static str,
    /// Element type.
    pub dtype: DType,
    /// Rows.
    pub rows: u32,
    /// Elements of a row.
    pub cols: u32,
    /// Rows as they lie in memory, padding included.
    pub bytes: Arc<[u8]>,
}

impl Parameter {
    /// A matrix of words; rows are padded.
    fn of_words(name: &'static str, dtype: DType, cols: u32, words: &[u32]) -> Self {
        let rows = words.len() / cols.max(1) as usize;
        let pitch = dtype.row_bytes(cols) as usize;
        let mut bytes = vec![0u8; pitch * rows];
        for (to, from) in bytes
            .chunks_mut(pitch.max(1))
            .zip(words.chunks(cols.max(1) as usize))
        {
            let from: &[u8] = bytemuck::cast_slice(from);
            to[..from.len()].copy_from_slice(from);
        }
        Parameter {
            name,
            dtype,
            rows: rows as u32,
            cols,
            bytes: bytes.into(),
        }
    }

    /// A row of f32.
    fn of_row(name: &'static str, values: &[f32]) -> Self {
        let words: &[u32] = bytemuck::cast_slice(values);
        Parameter::of_words(name, DType::F32, values.len() as u32, words)
    }

    /// A matrix of f16, from values row by row. What f16 cannot hold becomes its largest number; calibration keeps values far from there.
    fn of_halves(name: &'static str, cols: u32, values: &[f32]) -> Self {
        let largest = half::f16::MAX.to_f32();
        let rows = values.len() / cols.max(1) as usize;
        let pitch = DType::F16.row_bytes(cols) as usize;
        let mut bytes = vec![0u8; pitch * rows];
        for (to, from) in bytes
            .chunks_mut(pitch.max(1))
            .zip(values.chunks(cols.max(1) as usize))
        {
            for (to, &value) in to.chunks_exact_mut(2).zip(from) {
                let half = half::f16::from_f32(value.clamp(-largest, largest));
                to.copy_from_slice(&half.to_le_bytes());
            }
        }
        Parameter {
            name,
            dtype: DType::F16,
            rows: rows as u32,
            cols,
            bytes: bytes.into(),
        }
    }
}

/// What compressing blocks reads and writes; see [`longwave_contract::op::Refer`] for the tensors.
#[derive(Clone, Copy, Debug)]
pub struct EncodeTensors {
    /// Rows before the rotary embedding.
    pub staged: Tensor,
    /// Blocks.
    pub blocks: Tensor,
    /// How many blocks count.
    pub count: Tensor,
    /// How many rows that is.
    pub rows: Tensor,
    /// The sequence's blocks.
    pub entries: Tensor,
    /// The layer's blocks.
    pub latents: Tensor,
    /// Working memory, `f32[rows, cols]`.
    pub residual: Tensor,
    /// Working memory of as many bytes as `f32[rows, rank]` and `f32[rows, cols]` need.
    pub z: Tensor,
    /// Working memory of inner layers, as [`Codec::inner`] asks for.
    pub inner: [Option<Tensor>; 3],
}

/// What restoring tokens reads and writes, up to the row before the rotary embedding; see [`longwave_contract::op::Unpack`].
#[derive(Clone, Copy, Debug)]
pub struct RestoreTensors {
    /// Which tokens.
    pub tokens: Tokens,
    /// Where tokens lie.
    pub stores: Tensor,
    /// Raw pages and blocks.
    pub entries: Tensor,
    /// How many rows count.
    pub count: Tensor,
    /// Rows from one sequence to the next.
    pub pitch: u32,
    /// The first row.
    pub first: u32,
    /// Raw rows.
    pub raw: Tensor,
    /// The layer's blocks.
    pub latents: Tensor,
    /// Restored rows, `f32[n, cols]`.
    pub out: Tensor,
    /// Working memory of as many bytes as `f32[n, rank]` needs.
    pub z: Tensor,
    /// Working memory of inner layers, as [`Codec::inner`] asks for.
    pub inner: [Option<Tensor>; 3],
}

/// What a decoder that is a matrix, or nothing, restores tokens with; see [`longwave_contract::op::Restore`].
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// The layer's mean, and below it what coded tokens get besides.
    pub mean: Tensor,
    /// How latents are coded.
    pub components: Tensor,
    /// The matrix; without it, latents are the residual itself.
    pub matrix: Option<Tensor>,
}

/// Elements of f32 for each row that a codec's inner layers take, in each of three buffers: an op's results lie in no buffer that it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inner {
    /// For each row that is compressed.
    pub encode: [u32; 3],
    /// For each row that is restored.
    pub restore: [u32; 3],
}

/// Gives the tensors of a codec's parameters by their names.
pub type ParameterOf<'a> = &'a dyn Fn(&str) -> Result<Tensor, CheckError>;

/// Compresses and restores the rows of one layer.
pub trait Codec: Send + Sync + std::fmt::Debug {
    /// The codec's name.
    fn name(&self) -> &'static str;

    /// How blocks are laid out.
    fn shape(&self) -> LatentShape;

    /// What the ops need on the device.
    fn parameters(&self) -> Vec<Parameter>;

    /// The working memory of inner layers, beside rows and latents.
    fn inner(&self) -> Inner {
        Inner::default()
    }

    /// Whether the decoder is the rotation of each head that [`longwave_contract::op::AttendStored`] knows, so that attention can read blocks as they
    /// are.
    fn is_rotated(&self) -> bool {
        false
    }

    /// Records the ops that compress blocks; `parameter` gives the tensors of [`Codec::parameters`].
    ///
    /// # Errors
    /// A tensor does not fit.
    fn encode(
        &self,
        recording: &mut Recording,
        with: &EncodeTensors,
        parameter: ParameterOf<'_>,
    ) -> Result<(), CheckError>;

    /// The decoder, where one op can restore tokens all the way; `None` where it has inner layers.
    ///
    /// # Errors
    /// A parameter is not there.
    fn decoder(&self, parameter: ParameterOf<'_>) -> Result<Option<Decoder>, CheckError>;

    /// Records the ops that restore tokens up to the row before the rotary embedding, for a decoder with inner layers, or to look at those rows.
    ///
    /// # Errors
    /// A tensor does not fit.
    fn restore(
        &self,
        recording: &mut Recording,
        with: &RestoreTensors,
        parameter: ParameterOf<'_>,
    ) -> Result<(), CheckError>;
}

/// A codec whose parameters lie on a device.
#[derive(Debug)]
pub(crate) struct Placed {
    codec: Arc<dyn Codec>,
    tensors: Vec<(&'static str, Tensor)>,
    /// Own the buffers that the tensors name; layers may share some.
    #[expect(dead_code, reason = "held, not read")]
    buffers: Vec<Arc<Allocation>>,
}

impl Placed {
    /// Brings a codec's parameters to a device. Parameters with the same bytes as one in `shared` take its place.
    pub fn new(
        backend: &Arc<dyn Backend>,
        codec: &Arc<dyn Codec>,
        shared: &mut Vec<(Parameter, Arc<Allocation>)>,
    ) -> Result<Self, Error> {
        let (mut tensors, mut buffers) = (Vec::new(), Vec::new());
        for parameter in codec.parameters() {
            let known = shared.iter().find(|(known, _)| {
                (known.dtype, known.rows, known.cols)
                    == (parameter.dtype, parameter.rows, parameter.cols)
                    && (Arc::ptr_eq(&known.bytes, &parameter.bytes)
                        || known.bytes == parameter.bytes)
            });
            let buffer = match known {
                Some((_, buffer)) => Arc::clone(buffer),
                None => {
                    let label = format!("codec {}", parameter.name);
                    let (rows, cols) = (parameter.rows, parameter.cols);
                    let desc = BufferDesc::of(label, parameter.dtype, rows, cols);
                    let buffer = Arc::new(Allocation::new(backend, &desc)?);
                    backend.write(buffer.id(), 0, &parameter.bytes)?;
                    shared.push((parameter.clone(), Arc::clone(&buffer)));
                    buffer
                }
            };
            let tensor = Tensor::new(buffer.id(), parameter.dtype, parameter.rows, parameter.cols);
            tensors.push((parameter.name, tensor));
            buffers.push(buffer);
        }
        Ok(Placed {
            codec: Arc::clone(codec),
            tensors,
            buffers,
        })
    }

    pub fn name(&self) -> &'static str {
        self.codec.name()
    }

    pub fn shape(&self) -> LatentShape {
        self.codec.shape()
    }

    pub fn inner(&self) -> Inner {
        self.codec.inner()
    }

    pub fn is_rotated(&self) -> bool {
        self.codec.is_rotated()
    }

    fn parameter(&self, name: &str) -> Result<Tensor, CheckError> {
        let found = self.tensors.iter().find(|(known, _)| *known == name);
        found.map(|(_, tensor)| *tensor).ok_or_else(|| CheckError {
            op: self.codec.name(),
            operand: "parameter",
            expected: format!("a parameter {name}"),
            found: "none".into(),
        })
    }

    /// The layer's mean.
    pub fn mean(&self) -> Result<Tensor, CheckError> {
        self.parameter("mean")
    }

    pub fn encode(
        &self,
        recording: &mut Recording,
        with: &EncodeTensors,
    ) -> Result<(), CheckError> {
        self.codec
            .encode(recording, with, &|name| self.parameter(name))
    }

    pub fn decoder(&self) -> Result<Option<Decoder>, CheckError> {
        self.codec.decoder(&|name| self.parameter(name))
    }

    pub fn restore(
        &self,
        recording: &mut Recording,
        with: &RestoreTensors,
    ) -> Result<(), CheckError> {
        self.codec
            .restore(recording, with, &|name| self.parameter(name))
    }
}

/// The same bytes seen as a matrix of another shape.
pub(crate) fn reshaped(tensor: Tensor, rows: u32, cols: u32) -> Tensor {
    Tensor {
        rows,
        cols,
        ..tensor
    }
}
