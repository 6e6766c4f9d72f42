//! Where model files live, and who may write there at a time.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::Progress;
use super::alias::Alias;
use super::error::HubError;
use super::reference::Repository;

/// The directory of model files: `alias/KEY/FILE`, `hub/ORG/NAME/REVISION/...`, and `partial/` for unfinished work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cache {
    root: PathBuf,
}

/// An exclusive lock over one key of the cache, released when dropped or when the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Cache {
    /// The cache at `root`, or where the environment puts it: `$XDG_CACHE_HOME/longwave/models`, then
    /// `$HOME/.cache/longwave/models` (on Windows also `%LOCALAPPDATA%`). Relative values are ignored.
    pub(super) fn locate(
        root: Option<&Path>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, HubError> {
        if let Some(root) = root {
            return Ok(Cache {
                root: root.to_path_buf(),
            });
        }
        let absolute = |name: &str| {
            variable(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .or_else(|| cfg!(windows).then(|| absolute("LOCALAPPDATA")).flatten())
            .map(|base| Cache {
                root: base.join("longwave").join("models"),
            })
            .ok_or(HubError::NoCacheDirectory)
    }

    /// The folder of compiled kernels, beside that of models.
    pub(super) fn kernels(&self) -> PathBuf {
        self.root.with_file_name("kernels")
    }

    /// The folder of codecs, beside that of models.
    pub(super) fn codecs(&self) -> PathBuf {
        self.root.with_file_name("codecs")
    }

    /// The finished file of an alias.
    pub(super) fn alias_file(&self, alias: &Alias) -> PathBuf {
        self.root.join("alias").join(alias.key()).join(alias.file)
    }

    /// Everything of one repository.
    pub(super) fn repository(&self, repository: &Repository) -> PathBuf {
        self.root
            .join("hub")
            .join(&repository.owner)
            .join(&repository.name)
    }

    /// Unfinished work of one key.
    pub(super) fn partial(&self, key: &str) -> PathBuf {
        self.root.join("partial").join(key)
    }

    /// Takes the lock of `key`, waiting for another process or thread that holds it.
    pub(super) fn lock(
        &self,
        key: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Lock, HubError> {
        let directory = self.root.join("partial");
        make_directory(&directory)?;
        // The lock file stays: removing it would let two processes lock two files of one name.
        let path = directory.join(format!("{key}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| HubError::io("open", &path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress(Progress::Message(&format!(
                    "waiting for another download of {key}"
                )));
                file.lock()
                    .map_err(|source| HubError::io("lock", &path, source))?;
            }
            Err(TryLockError::Error(source)) => return Err(HubError::io("lock", &path, source)),
        }
        Ok(Lock { _file: file })
    }
}

/// Makes a directory and its parents.
pub(super) fn make_directory(path: &Path) -> Result<(), HubError> {
    std::fs::create_dir_all(path).map_err(|source| HubError::io("create", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::alias::aliases;

    fn located(pairs: &[(&str, &str)]) -> Result<Cache, HubError> {
        Cache::locate(None, |name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[cfg(unix)]
    #[test]
    fn environment_decides_the_place() -> Result<(), HubError> {
        let cache = located(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")])?;
        let alias = &aliases()[0];
        assert_eq!(
            cache.alias_file(alias),
            Path::new("/x/longwave/models/alias/smollm2-135m").join(alias.file)
        );
        let cache = located(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")])?;
        let repository = Repository {
            owner: "o".to_string(),
            name: "n".to_string(),
        };
        assert_eq!(
            cache.repository(&repository),
            Path::new("/h/.cache/longwave/models/hub/o/n")
        );
        assert!(matches!(located(&[]), Err(HubError::NoCacheDirectory)));
        assert_eq!(
            Cache::locate(Some(Path::new("/over")), |_| None)?.partial("k"),
            Path::new("/over/partial/k")
        );
        Ok(())
    }

    #[test]
    fn a_second_lock_waits_for_the_first() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let cache = Cache::locate(Some(directory.path()), |_| None)?;
        let first = cache.lock("k", &mut |_| {})?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn({
            let cache = cache.clone();
            move || {
                let waiting = sender.clone();
                let lock = cache.lock("k", &mut |_| {
                    let _ = waiting.send("waiting");
                });
                let _ = sender.send("locked");
                lock.is_ok()
            }
        });
        assert_eq!(receiver.recv()?, "waiting");
        assert!(receiver.try_recv().is_err(), "locked while held");
        cache.lock("other", &mut |_| {})?;
        drop(first);
        assert_eq!(receiver.recv()?, "locked");
        assert!(waiter.join().map_err(|_| "the waiter panicked")?);
        Ok(())
    }
}
