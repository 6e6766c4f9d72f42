//! The model hub, one bounded question at a time.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFClientSync, HFError};

use super::error::HubError;
use super::reference::Repository;

/// Patience with one range of a file; a link slower than this many seconds for a range counts as broken.
const READ_PATIENCE: Duration = Duration::from_secs(300);

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Path in the repository.
    pub(super) path: String,
    /// Length in bytes.
    pub(super) size: u64,
    /// SHA-256 in lower-case hexadecimal, where the hub says it.
    pub(super) sha256: Option<String>,
}

/// All files of a repository at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// The commit.
    pub(super) revision: String,
    /// Its files.
    pub(super) files: Vec<RemoteFile>,
}

/// What is asked of the hub.
pub(super) trait Remote {
    /// Lists the newest revision of a repository, or fails with [`HubError::Unreachable`] after `patience`.
    fn list(&self, repository: &Repository, patience: Duration) -> Result<Listing, HubError>;

    /// Reads bytes of one file at one revision; may return fewer or more than asked for where the server misbehaves.
    fn read(
        &self,
        repository: &Repository,
        revision: &str,
        path: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>, HubError>;
}

/// The Hugging Face hub. Honours `HF_TOKEN` and `HF_ENDPOINT`.
#[derive(Debug, Default)]
pub(super) struct Hub {
    endpoint: Option<String>,
    client: OnceLock<HFClientSync>,
}

impl Hub {
    /// A hub at another address than the environment's.
    #[cfg(test)]
    pub(super) fn at(endpoint: &str) -> Self {
        Hub {
            endpoint: Some(endpoint.to_string()),
            client: OnceLock::new(),
        }
    }

    fn client(&self, repository: &Repository) -> Result<&HFClientSync, HubError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let mut builder = HFClient::builder()
            .cache_enabled(false)
            .user_agent(concat!("longwave/", env!("CARGO_PKG_VERSION")))
            .retry_max_attempts(2);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        let client = builder
            .build_sync()
            .map_err(|error| classify(repository, "", error))?;
        Ok(self.client.get_or_init(|| client))
    }
}

impl Remote for Hub {
    fn list(&self, repository: &Repository, patience: Duration) -> Result<Listing, HubError> {
        let model = self
            .client(repository)?
            .model(&repository.owner, &repository.name);
        let name = repository.clone();
        let (revision, entries) = within(repository, patience, move || {
            let info = model
                .info()
                .send()
                .map_err(|error| classify(&name, "", error))?;
            let revision = info.sha.unwrap_or_else(|| "main".to_string());
            let entries = model
                .list_tree()
                .revision(revision.as_str())
                .recursive(true)
                .send()
                .map_err(|error| classify(&name, "", error))?;
            Ok((revision, entries))
        })?;
        let files = entries
            .into_iter()
            .filter_map(|entry| match entry {
                RepoTreeEntry::File {
                    path, size, lfs, ..
                } => Some(RemoteFile {
                    path,
                    size,
                    sha256: lfs
                        .and_then(|lfs| lfs.sha256)
                        .map(|sha256| sha256.to_ascii_lowercase())
                        .filter(|sha256| sha256.len() == 64),
                }),
                _ => None,
            })
            .collect();
        Ok(Listing { revision, files })
    }

    fn read(
        &self,
        repository: &Repository,
        revision: &str,
        path: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>, HubError> {
        let model = self
            .client(repository)?
            .model(&repository.owner, &repository.name);
        let (name, revision, path) = (repository.clone(), revision.to_string(), path.to_string());
        within(repository, READ_PATIENCE, move || {
            model
                .download_file_to_bytes()
                .filename(path.as_str())
                .revision(revision)
                .range(range)
                .send()
                .map(Vec::from)
                .map_err(|error| classify(&name, &path, error))
        })
    }
}

/// Runs one question on a thread of its own and gives up waiting after `patience`. The client has no limit of its own
/// for name resolution and connecting; an abandoned thread ends with its connection.
fn within<T: Send + 'static>(
    repository: &Repository,
    patience: Duration,
    ask: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    let unreachable = |reason: String| HubError::Unreachable {
        repository: repository.to_string(),
        reason,
    };
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("hub".to_string())
        .spawn(move || {
            // Nobody listens any more where patience has run out.
            let _ = sender.send(ask());
        })
        .map_err(|error| unreachable(error.to_string()))?;
    match receiver.recv_timeout(patience) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout) => Err(unreachable(format!(
            "no answer within {} s",
            patience.as_secs_f32()
        ))),
        Err(RecvTimeoutError::Disconnected) => {
            Err(unreachable("the request broke off".to_string()))
        }
    }
}

fn classify(repository: &Repository, path: &str, error: HFError) -> HubError {
    let repository = repository.to_string();
    match error {
        HFError::RepoNotFound { .. } | HFError::AuthRequired { .. } => {
            HubError::RepositoryNotFound { repository }
        }
        HFError::Forbidden { .. } => HubError::AccessDenied { repository },
        HFError::EntryNotFound { .. } => HubError::FileMissing {
            repository,
            file: path.to_string(),
            available: Vec::new(),
        },
        HFError::Http { context } if context.status.as_u16() == 404 => {
            HubError::RepositoryNotFound { repository }
        }
        HFError::Request { source, .. } => HubError::Unreachable {
            repository,
            reason: chain(&source),
        },
        other => HubError::Hub {
            repository,
            reason: chain(&other),
        },
    }
}

/// An error with its causes; the outermost message of a transport error says too little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = inner.source();
    }
    text
}
