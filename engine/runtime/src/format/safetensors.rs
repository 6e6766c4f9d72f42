//! Hugging Face model directories, and single safetensors files.
//!
//! The header parser is our own. That of the `safetensors` crate (0.8) adds unchecked sizes at its end, which a hostile header can make
//! overflow, keeps the last of two tensors of one name, and does not name the tensor whose size is wrong. Tests use the crate as the
//! independent writer.

mod directory;
mod header;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::error::shown;
use super::repack::Rows;
use super::{FormatError, MappedFile, TensorInfo};

pub use directory::HfDirectory;
pub(crate) use directory::read_json;
pub use header::{Header, parse};

/// One safetensors file, opened and checked.
#[derive(Debug)]
pub struct SafetensorsFile {
    file: MappedFile,
    name: String,
    tensors: Vec<(TensorInfo, Range<usize>)>,
    names: HashMap<String, usize>,
    metadata: HashMap<String, String>,
}

impl SafetensorsFile {
    /// Opens a safetensors file.
    ///
    /// # Errors
    /// The file cannot be mapped, is damaged, or has a tensor that is neither `F32`, `F16` nor `BF16`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let file = MappedFile::open(path)?;
        let name = file.path().display().to_string();
        let Header { tensors, metadata } = parse(file.bytes(), &name)?;
        let names = tensors
            .iter()
            .enumerate()
            .map(|(index, (info, _))| (info.name.clone(), index))
            .collect();
        Ok(SafetensorsFile {
            file,
            name,
            tensors,
            names,
            metadata,
        })
    }

    /// The mapped file.
    pub fn file(&self) -> &MappedFile {
        &self.file
    }

    /// The header's `__metadata__`.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Every tensor, in the order of the data.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|(info, _)| info)
    }

    /// A tensor that may be missing.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors
            .get(*self.names.get(name)?)
            .map(|(info, _)| info)
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, FormatError> {
        self.find(name).ok_or_else(|| self.missing(name))
    }

    /// A tensor's bytes as they lie in the file, row after row.
    ///
    /// # Errors
    /// The tensor is missing.
    pub fn bytes(&self, name: &str) -> Result<&[u8], FormatError> {
        self.located(name).map(|(_, bytes)| bytes)
    }

    /// A tensor's rows, ready for [`super::repack::repack_rows`].
    ///
    /// # Errors
    /// The tensor is missing or too large for a matrix.
    pub fn rows(&self, name: &str) -> Result<Rows<'_>, FormatError> {
        let (info, bytes) = self.located(name)?;
        Rows::new(&self.name, info, bytes)
    }

    fn located(&self, name: &str) -> Result<(&TensorInfo, &[u8]), FormatError> {
        let located = self.names.get(name).and_then(|&index| {
            let (info, range) = self.tensors.get(index)?;
            Some((info, self.file.bytes().get(range.clone())?))
        });
        located.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> FormatError {
        FormatError::MissingTensor {
            file: self.name.clone(),
            tensor: shown(name),
        }
    }
}

#[cfg(test)]
mod tests;
