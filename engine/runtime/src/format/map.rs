//! The memory map: the one place of the runtime with `unsafe`.
#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe, because another process may change it"
)]

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::FormatError;

/// A file that is mapped into memory, read-only.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    // An empty file cannot be mapped on every system.
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps a regular file.
    ///
    /// While it is mapped nobody may truncate or overwrite it: reading pages that are gone ends the process on most systems. Model
    /// files are written once and replaced by renaming, which is safe.
    ///
    /// # Errors
    /// The file cannot be opened or mapped, or is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let path = path.as_ref();
        // Asked before the file is opened: opening a pipe waits for a writer.
        let metadata =
            std::fs::metadata(path).map_err(|source| FormatError::io(path, "open", source))?;
        if !metadata.is_file() {
            return Err(FormatError::invalid(
                path.display(),
                "path",
                "is not a regular file",
            ));
        }
        let file = File::open(path).map_err(|source| FormatError::io(path, "open", source))?;
        let length = file
            .metadata()
            .map_err(|source| FormatError::io(path, "read the size of", source))?
            .len();
        let map = if length == 0 {
            None
        } else {
            // SAFETY: the map is read-only and private to this value, and lives as long as the slices that `bytes` lends. Nothing in
            // this program writes to model files. That another process does not, the type cannot ensure; the documentation above asks
            // for it, and every value that is read from the map is checked where it is used, so a changed byte is a wrong weight or an
            // error, never an access out of bounds.
            let map = unsafe { Mmap::map(&file) };
            Some(map.map_err(|source| FormatError::io(path, "map", source))?)
        };
        Ok(MappedFile {
            path: path.to_path_buf(),
            map,
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }
}
