//! Opening model files safely: GGUF and Hugging Face directories, and repacking their weights into the layouts that devices hold.
//!
//! Every file is hostile until it is checked: counts and lengths are compared with what is left of the file before anything is
//! allocated, arithmetic on sizes is checked, and every error names the file and the field. What a parser accepts can be read without
//! further checks.
//!
//! - [`gguf`]: GGUF version 2 and 3, also in several parts.
//! - [`safetensors`]: `model.safetensors`, sharded or not, with the JSON files that lie beside it.
//! - [`ggml`]: the block layouts of GGUF's element types, and what values they stand for.
//! - [`repack`]: from those to [`longwave_contract::DType`], with the rounding that each step costs.
//! - [`testing`]: makes small model files for tests.
//!
//! **Architecture invariant:** nothing here knows a model's architecture or a device; `unsafe` occurs in the memory map only.

mod error;
pub mod ggml;
pub mod gguf;
mod map;
pub mod repack;
pub mod safetensors;
mod tensor;
pub mod testing;

pub use error::{FormatError, RowError};
pub use ggml::GgmlType;
pub use gguf::Gguf;
pub use map::MappedFile;
pub use safetensors::{HfDirectory, SafetensorsFile};
pub use tensor::TensorInfo;
