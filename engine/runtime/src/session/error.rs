//! Why a session cannot be saved or resumed.

use std::io;
use std::path::PathBuf;

use crate::error::Error;

/// Why a session file cannot be written or read. Nothing is left half-done: neither a file, nor a sequence.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The file system refuses.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no session file, or its end is missing.
    #[error("{}: {why}", .path.display())]
    NoSession {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Some of its bytes are not what was written.
    #[error("{}: the section {section} is damaged: {why}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part.
        section: String,
        /// How that shows.
        why: String,
    },
    /// It is of another model, or of a policy that stores tokens in another way.
    #[error("{}: the section {section} does not fit: {why}", .path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Which part.
        section: &'static str,
        /// What was expected and found.
        why: String,
    },
    /// The engine refuses, or the device fails.
    #[error(transparent)]
    Engine(#[from] Error),
}
