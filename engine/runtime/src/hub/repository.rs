//! A model from a repository of the hub: listing, choosing, fetching, and remembering what was fetched.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::error::HubError;
use super::reference::{Repository, is_plain_relative};
use super::remote::{Listing, Remote, RemoteFile};
use super::selection::{INDEX, Plan, choose};
use super::store::{Cached, Expected, PartialFile, check, write_small};
use super::{LocalModel, Progress};

/// Bytes asked for at a time; an interrupted download loses at most this much.
const RANGE: u64 = 16 << 20;

/// Patience with the hub where there is no other source.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a finished fetch left, so that the next one needs no network.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    revision: String,
    /// The GGUF file (or its first part); none for a directory.
    gguf: Option<String>,
    files: Vec<ManifestFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ManifestFile {
    path: String,
    size: u64,
    sha256: Option<String>,
}

/// Brings a repository's model into the cache. A finished fetch is used as it is: newer revisions are not looked for.
pub(super) fn resolve(
    repository: &Repository,
    selection: Option<&str>,
    cache: &Cache,
    remote: Option<&dyn Remote>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<LocalModel, HubError> {
    let base = cache.repository(repository);
    let key = selection.map_or_else(
        || "whole".to_string(),
        |name| name.to_ascii_lowercase().replace('/', "+"),
    );
    let manifest = base.join(format!("{key}.json"));
    let corrupt = match recall(&base, &manifest, progress)? {
        Recalled::Model(model) => return Ok(model),
        Recalled::Corrupt(error) => Some(error),
        Recalled::Absent => None,
    };
    let Some(remote) = remote else {
        return Err(corrupt.unwrap_or_else(|| HubError::Offline {
            what: match selection {
                Some(selection) => format!("{repository}:{selection}"),
                None => repository.to_string(),
            },
        }));
    };
    let lock_key = format!("{}--{}", repository.owner, repository.name);
    let _lock = cache.lock(&lock_key, progress)?;
    if let Recalled::Model(model) = recall(&base, &manifest, progress)? {
        return Ok(model);
    }
    let listing = remote.list(repository, PATIENCE)?;
    if !is_plain_relative(&listing.revision) || listing.revision.contains('/') {
        return Err(HubError::UnsafePath {
            origin: repository.to_string(),
            path: listing.revision,
        });
    }
    let paths: Vec<String> = listing.files.iter().map(|file| file.path.clone()).collect();
    let plan = choose(repository, selection, &paths)?;
    let mut fetch = Fetch {
        remote,
        repository,
        listing: &listing,
        directory: base.join(&listing.revision),
        fetched: Vec::new(),
    };
    let gguf = match &plan {
        Plan::Gguf(parts) => {
            for part in parts {
                fetch.file(part, progress)?;
            }
            parts.first().cloned()
        }
        Plan::Directory {
            companions,
            weights,
        } => {
            for path in companions {
                fetch.file(path, progress)?;
            }
            let shards = if weights.is_empty() {
                read_index(&fetch.directory.join(INDEX))?
            } else {
                weights.clone()
            };
            for path in &shards {
                fetch.file(path, progress)?;
            }
            None
        }
    };
    let finished = Manifest {
        revision: listing.revision.clone(),
        gguf,
        files: fetch.fetched,
    };
    let text = serde_json::to_vec_pretty(&finished).map_err(|error| HubError::Malformed {
        path: manifest.clone(),
        reason: error.to_string(),
    })?;
    write_small(&manifest, &text)?;
    Ok(finished.model(&base))
}

impl Manifest {
    fn model(&self, base: &Path) -> LocalModel {
        let directory = base.join(&self.revision);
        match &self.gguf {
            Some(gguf) => LocalModel::Gguf(directory.join(gguf)),
            None => LocalModel::Directory(directory),
        }
    }
}

enum Recalled {
    Absent,
    Corrupt(HubError),
    Model(LocalModel),
}

/// Reads the manifest and checks its files; an unreadable manifest is as good as none.
fn recall(
    base: &Path,
    manifest: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Recalled, HubError> {
    let Some(manifest) = fs::read(manifest)
        .ok()
        .and_then(|text| serde_json::from_slice::<Manifest>(&text).ok())
    else {
        return Ok(Recalled::Absent);
    };
    let names = manifest.files.iter().map(|file| file.path.as_str());
    let mut names = names
        .chain([manifest.revision.as_str()])
        .chain(manifest.gguf.as_deref());
    if manifest.files.is_empty() || !names.all(is_plain_relative) {
        return Ok(Recalled::Absent);
    }
    for file in &manifest.files {
        let expected = Expected {
            what: &file.path,
            origin: "the cache",
            size: file.size,
            sha256: file.sha256.as_deref(),
        };
        let path = base.join(&manifest.revision).join(&file.path);
        match check(&path, &expected, progress)? {
            Cached::Good => {}
            Cached::Absent => return Ok(Recalled::Absent),
            Cached::Corrupt(error) => return Ok(Recalled::Corrupt(error)),
        }
    }
    Ok(Recalled::Model(manifest.model(base)))
}

/// The shards that an index names.
fn read_index(path: &Path) -> Result<Vec<String>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = fs::read(path).map_err(|source| HubError::io("read", path, source))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| HubError::Malformed {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err(HubError::Malformed {
            path: path.to_path_buf(),
            reason: "`weight_map` names no file".to_string(),
        });
    }
    Ok(shards.into_iter().collect())
}

struct Fetch<'a> {
    remote: &'a dyn Remote,
    repository: &'a Repository,
    listing: &'a Listing,
    directory: PathBuf,
    fetched: Vec<ManifestFile>,
}

impl Fetch<'_> {
    fn file(&mut self, path: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), HubError> {
        let origin = self.repository.to_string();
        if !is_plain_relative(path) {
            return Err(HubError::UnsafePath {
                origin,
                path: path.to_string(),
            });
        }
        let Some(file) = self.listing.files.iter().find(|file| file.path == path) else {
            return Err(HubError::FileMissing {
                repository: origin,
                file: path.to_string(),
                available: Vec::new(),
            });
        };
        let expected = Expected {
            what: path,
            origin: &origin,
            size: file.size,
            sha256: file.sha256.as_deref(),
        };
        let target = self.directory.join(path);
        let sha256 = match check(&target, &expected, progress)? {
            Cached::Good => file.sha256.clone(),
            _ => Some(download(
                self.remote,
                self.repository,
                &self.listing.revision,
                file,
                &target,
                &expected,
                progress,
            )?),
        };
        self.fetched.push(ManifestFile {
            path: path.to_string(),
            size: file.size,
            sha256,
        });
        Ok(())
    }
}

/// Fetches one file, going on where an earlier run stopped, and returns its SHA-256.
pub(super) fn download(
    remote: &dyn Remote,
    repository: &Repository,
    revision: &str,
    file: &RemoteFile,
    target: &Path,
    expected: &Expected<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<String, HubError> {
    let mut resume = true;
    loop {
        let mut output = PartialFile::create(target, resume)?;
        if output.written() > file.size {
            output.restart()?;
        }
        let resumed = output.written() > 0;
        while output.written() < file.size {
            let start = output.written();
            progress(Progress::Downloading {
                what: expected.what,
                done: start,
                total: Some(file.size),
            });
            let end = start.saturating_add(RANGE).min(file.size);
            let bytes = remote.read(repository, revision, &file.path, start..end)?;
            if bytes.len() as u64 != end - start {
                return Err(HubError::Hub {
                    repository: repository.to_string(),
                    reason: format!(
                        "{} bytes of `{}` came where {} were asked for",
                        bytes.len(),
                        file.path,
                        end - start
                    ),
                });
            }
            output.append(&bytes)?;
        }
        progress(Progress::Downloading {
            what: expected.what,
            done: file.size,
            total: Some(file.size),
        });
        match output.finish(expected) {
            // The bytes of the earlier run may be another file's; once from the start settles it.
            Err(HubError::HashMismatch { .. }) if resumed && resume => resume = false,
            outcome => return outcome,
        }
    }
}
