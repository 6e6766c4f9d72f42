//! GGUF, version 2 and 3, little-endian, in one file or several.

mod header;
mod metadata;
mod reader;
mod split;
mod value;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::error::shown;
use super::repack::Rows;
use super::{FormatError, MappedFile, TensorInfo};

pub(super) use header::byte_size;
pub use header::{Header, parse};
pub use metadata::Metadata;
pub use value::{Array, Value};

/// A model in GGUF, opened and checked.
#[derive(Debug)]
pub struct Gguf {
    metadata: Metadata,
    parts: Vec<Part>,
    tensors: Vec<Placed>,
    names: HashMap<String, usize>,
}

#[derive(Debug)]
struct Part {
    file: MappedFile,
    name: String,
}

#[derive(Debug)]
struct Placed {
    info: TensorInfo,
    part: usize,
    range: Range<usize>,
}

impl Gguf {
    /// Opens a GGUF file. If it is one part of several (`name-00001-of-00003.gguf`), opens all of them, whichever is named.
    ///
    /// # Errors
    /// A file cannot be mapped or parsed, or a part is missing or does not belong to the others.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let mut opened = split::open_all(path.as_ref())?.into_iter();
        let Some((file, header)) = opened.next() else {
            return Err(FormatError::invalid(
                path.as_ref().display(),
                "parts",
                "there are none",
            ));
        };
        let mut gguf = Gguf {
            metadata: header.metadata,
            parts: Vec::new(),
            tensors: Vec::new(),
            names: HashMap::new(),
        };
        gguf.add(file, header.tensors)?;
        for (file, header) in opened {
            gguf.add(file, header.tensors)?;
        }
        Ok(gguf)
    }

    fn add(
        &mut self,
        file: MappedFile,
        tensors: Vec<(TensorInfo, Range<usize>)>,
    ) -> Result<(), FormatError> {
        let name = file.path().display().to_string();
        let part = self.parts.len();
        for (info, range) in tensors {
            if self
                .names
                .insert(info.name.clone(), self.tensors.len())
                .is_some()
            {
                let field = format!(
                    "tensor `{}`, which another part has too,",
                    shown(&info.name)
                );
                return Err(FormatError::Duplicate { file: name, field });
            }
            self.tensors.push(Placed { info, part, range });
        }
        self.parts.push(Part { file, name });
        Ok(())
    }

    /// The metadata; of a model in several parts, that of the first.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// `general.architecture`, such as `llama`: the prefix of the architecture's own keys.
    ///
    /// # Errors
    /// The key is missing or no string.
    pub fn architecture(&self) -> Result<&str, FormatError> {
        self.metadata.get_str("general.architecture")
    }

    /// The files, in the order of the parts.
    pub fn files(&self) -> impl Iterator<Item = &MappedFile> {
        self.parts.iter().map(|part| &part.file)
    }

    /// Every tensor, in the files' order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|placed| &placed.info)
    }

    /// A tensor that may be missing.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.placed(name).map(|placed| &placed.info)
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
        self.located(name).map(|(_, _, bytes)| bytes)
    }

    /// A tensor's rows, ready for [`super::repack::repack_rows`].
    ///
    /// # Errors
    /// The tensor is missing or too large for a matrix.
    pub fn rows(&self, name: &str) -> Result<Rows<'_>, FormatError> {
        let (file, info, bytes) = self.located(name)?;
        Rows::new(file, info, bytes)
    }

    fn located(&self, name: &str) -> Result<(&str, &TensorInfo, &[u8]), FormatError> {
        let located = self.placed(name).and_then(|placed| {
            let part = self.parts.get(placed.part)?;
            let bytes = part.file.bytes().get(placed.range.clone())?;
            Some((part.name.as_str(), &placed.info, bytes))
        });
        located.ok_or_else(|| self.missing(name))
    }

    fn placed(&self, name: &str) -> Option<&Placed> {
        self.tensors.get(*self.names.get(name)?)
    }

    fn missing(&self, name: &str) -> FormatError {
        let file = self
            .parts
            .first()
            .map(|part| part.name.clone())
            .unwrap_or_default();
        FormatError::MissingTensor {
            file,
            tensor: shown(name),
        }
    }
}

#[cfg(test)]
mod tests;
