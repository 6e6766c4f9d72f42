//! Files that are either whole and verified, or not there under their name.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::Progress;
use super::cache::make_directory;
use super::error::HubError;

const CHUNK: usize = 1 << 20;

/// What a file must be to be accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    /// Name for progress and errors.
    pub(super) what: &'a str,
    /// Who promised it, for errors.
    pub(super) origin: &'a str,
    /// Length in bytes.
    pub(super) size: u64,
    /// SHA-256 in lower-case hexadecimal, where it is known.
    pub(super) sha256: Option<&'a str>,
}

/// What lies in the cache under a name.
#[derive(Debug)]
pub(super) enum Cached {
    /// Nothing.
    Absent,
    /// The expected file.
    Good,
    /// Another file; the error says how it differs.
    Corrupt(HubError),
}

/// Compares a cached file with what is expected: its length always, its SHA-256 once per length and time of change
/// (remembered in `NAME.sha256`).
pub(super) fn check(
    path: &Path,
    expected: &Expected<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Cached, HubError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cached::Absent),
        Err(source) => return Err(HubError::io("look at", path, source)),
    };
    if metadata.len() != expected.size {
        return Ok(Cached::Corrupt(HubError::SizeMismatch {
            file: expected.what.to_string(),
            origin: format!("the cache ({})", path.display()),
            expected: expected.size,
            found: metadata.len(),
        }));
    }
    let Some(sha256) = expected.sha256 else {
        return Ok(Cached::Good);
    };
    let found = match recall(path, &metadata) {
        Some(known) => known,
        None => {
            let found = hash_file(path, expected, progress)?;
            remember(path, &found);
            found
        }
    };
    if found == sha256 {
        return Ok(Cached::Good);
    }
    Ok(Cached::Corrupt(HubError::HashMismatch {
        file: expected.what.to_string(),
        origin: format!("the cache ({})", path.display()),
        expected: sha256.to_string(),
        found,
    }))
}

/// A file being written as `NAME.partial`, hashed on the way.
#[derive(Debug)]
pub(super) struct PartialFile {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    hasher: Sha256,
    written: u64,
    keep: bool,
}

impl PartialFile {
    /// Starts `NAME.partial` for the final `path`; with `resume`, goes on after the bytes that an earlier run left.
    pub(super) fn create(path: &Path, resume: bool) -> Result<Self, HubError> {
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        let partial = with_ending(path, "partial");
        let mut file = File::options()
            .create(true)
            .truncate(!resume)
            .read(true)
            .write(true)
            .open(&partial)
            .map_err(|source| HubError::io("create", &partial, source))?;
        let mut hasher = Sha256::new();
        let mut written = 0u64;
        if resume {
            let mut buffer = vec![0u8; CHUNK];
            loop {
                let count = read_some(&mut file, &mut buffer)
                    .map_err(|source| HubError::io("read", &partial, source))?;
                let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
                    break;
                };
                hasher.update(bytes);
                written = written.saturating_add(bytes.len() as u64);
            }
        }
        Ok(PartialFile {
            path: path.to_path_buf(),
            partial,
            file,
            hasher,
            written,
            keep: resume,
        })
    }

    /// Bytes written so far, those of an earlier run included.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Appends bytes. An error removes the partial file where the disk is at fault.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        if let Err(source) = self.file.write_all(bytes) {
            self.keep = false;
            return Err(HubError::io("write", &self.partial, source));
        }
        self.hasher.update(bytes);
        self.written = self.written.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Forgets all bytes and starts again.
    pub(super) fn restart(&mut self) -> Result<(), HubError> {
        use std::io::Seek;
        let rewound = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(io::SeekFrom::Start(0)));
        rewound.map_err(|source| HubError::io("truncate", &self.partial, source))?;
        self.hasher = Sha256::new();
        self.written = 0;
        Ok(())
    }

    /// Verifies length and SHA-256, flushes to the disk, and only then gives the file its name. Returns the SHA-256.
    pub(super) fn finish(mut self, expected: &Expected<'_>) -> Result<String, HubError> {
        self.keep = false;
        if self.written != expected.size {
            return Err(HubError::SizeMismatch {
                file: expected.what.to_string(),
                origin: expected.origin.to_string(),
                expected: expected.size,
                found: self.written,
            });
        }
        let found = hexadecimal(&std::mem::take(&mut self.hasher).finalize());
        if let Some(sha256) = expected.sha256
            && sha256 != found
        {
            return Err(HubError::HashMismatch {
                file: expected.what.to_string(),
                origin: expected.origin.to_string(),
                expected: sha256.to_string(),
                found,
            });
        }
        self.file
            .sync_all()
            .map_err(|source| HubError::io("flush", &self.partial, source))?;
        fs::rename(&self.partial, &self.path)
            .map_err(|source| HubError::io("rename", &self.path, source))?;
        self.keep = true;
        if let Some(parent) = self.path.parent() {
            // Not every system can open a directory; the rename itself is done.
            let _ = File::open(parent).and_then(|directory| directory.sync_all());
        }
        remember(&self.path, &found);
        Ok(found)
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.keep {
            // Best effort: an error is already on its way to the caller.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Writes a small file at once, through `NAME.partial`.
pub(super) fn write_small(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let mut file = PartialFile::create(path, false)?;
    file.append(bytes)?;
    file.file
        .sync_all()
        .map_err(|source| HubError::io("flush", &file.partial, source))?;
    fs::rename(&file.partial, path).map_err(|source| HubError::io("rename", path, source))?;
    file.keep = true;
    Ok(())
}

/// `path` with `.ending` appended to its file name.
pub(super) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// Lower-case hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads once, again after an interruption.
fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn hash_file(
    path: &Path,
    expected: &Expected<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<String, HubError> {
    let failed = |source| HubError::io("read", path, source);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; CHUNK];
    let mut done = 0u64;
    loop {
        let count = read_some(&mut file, &mut buffer).map_err(failed)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hasher.update(bytes);
        done = done.saturating_add(bytes.len() as u64);
        progress(Progress::Verifying {
            what: expected.what,
            done,
            total: expected.size,
        });
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// Length and time of change, which the remembered hash is bound to.
fn stamp(metadata: &fs::Metadata) -> Option<String> {
    let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {}", metadata.len(), changed.as_nanos()))
}

fn recall(path: &Path, metadata: &fs::Metadata) -> Option<String> {
    let memo = fs::read_to_string(with_ending(path, "sha256")).ok()?;
    let (hash, bound_to) = memo.trim().split_once(' ')?;
    (hash.len() == 64 && bound_to == stamp(metadata)?).then(|| hash.to_string())
}

/// Best effort: without the memo (a read-only cache) the file is hashed again next time.
fn remember(path: &Path, hash: &str) {
    let bound_to = fs::metadata(path).ok().as_ref().and_then(stamp);
    if let Some(bound_to) = bound_to {
        let memo = format!("{hash} {bound_to}\n");
        let _ = write_small(&with_ending(path, "sha256"), memo.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn expected<'a>(size: u64, sha256: Option<&'a str>) -> Expected<'a> {
        Expected {
            what: "greeting",
            origin: "a test",
            size,
            sha256,
        }
    }

    fn names(directory: &Path) -> Result<Vec<String>, io::Error> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    #[test]
    fn a_verified_file_gets_its_name_and_a_memo() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("x");
        let mut file = PartialFile::create(&path, false)?;
        file.append(b"hel")?;
        assert_eq!(names(directory.path())?, ["x.partial"]);
        file.append(b"lo")?;
        file.finish(&expected(5, Some(HELLO)))?;
        assert_eq!(fs::read(&path)?, b"hello");
        assert_eq!(names(directory.path())?, ["x", "x.sha256"]);
        let mut hashed = 0;
        let verdict = check(&path, &expected(5, Some(HELLO)), &mut |_| hashed += 1)?;
        assert!(matches!(verdict, Cached::Good));
        assert_eq!(hashed, 0, "the memo spares the hash");
        Ok(())
    }

    #[test]
    fn a_wrong_hash_or_length_leaves_nothing() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("x");
        let mut file = PartialFile::create(&path, false)?;
        file.append(b"hullo")?;
        let error = file.finish(&expected(5, Some(HELLO)));
        assert!(
            matches!(&error, Err(HubError::HashMismatch { expected, found, .. }) if expected == HELLO && found.len() == 64),
            "{error:?}"
        );
        let mut file = PartialFile::create(&path, false)?;
        file.append(b"hell")?;
        let error = file.finish(&expected(5, Some(HELLO)));
        assert!(matches!(
            error,
            Err(HubError::SizeMismatch {
                expected: 5,
                found: 4,
                ..
            })
        ));
        assert!(names(directory.path())?.is_empty());
        Ok(())
    }

    #[test]
    fn a_resumed_file_hashes_what_was_there() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("x");
        let mut file = PartialFile::create(&path, true)?;
        file.append(b"hel")?;
        drop(file);
        assert_eq!(names(directory.path())?, ["x.partial"]);
        let mut file = PartialFile::create(&path, true)?;
        assert_eq!(file.written(), 3);
        file.append(b"lo")?;
        file.finish(&expected(5, Some(HELLO)))?;
        let mut file = PartialFile::create(&path, true)?;
        file.append(b"junk")?;
        file.restart()?;
        file.append(b"hello")?;
        file.finish(&expected(5, Some(HELLO)))?;
        assert_eq!(fs::read(&path)?, b"hello");
        Ok(())
    }

    #[test]
    fn corruption_is_seen_by_length_and_by_content() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("x");
        let look = |size| check(&path, &expected(size, Some(HELLO)), &mut |_| {});
        assert!(matches!(look(5)?, Cached::Absent));
        fs::write(&path, b"hello")?;
        assert!(matches!(look(5)?, Cached::Good));
        assert!(matches!(
            look(6)?,
            Cached::Corrupt(HubError::SizeMismatch { found: 5, .. })
        ));
        // Another time of change makes the memo void.
        fs::write(&path, b"jello")?;
        File::options()
            .write(true)
            .open(&path)?
            .set_modified(UNIX_EPOCH + std::time::Duration::from_secs(7))?;
        assert!(matches!(
            look(5)?,
            Cached::Corrupt(HubError::HashMismatch { .. })
        ));
        Ok(())
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_leaves_nothing() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("x");
        std::os::unix::fs::symlink("/dev/full", directory.path().join("x.partial"))?;
        let mut file = PartialFile::create(&path, false)?;
        assert!(matches!(
            file.append(b"hello"),
            Err(HubError::NoSpace { .. })
        ));
        drop(file);
        assert!(names(directory.path())?.is_empty());
        Ok(())
    }

    #[test]
    fn an_unwritable_place_is_named() -> Outcome {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("file"), b"")?;
        let path = directory.path().join("file").join("x");
        let error = PartialFile::create(&path, false);
        assert!(
            matches!(
                &error,
                Err(HubError::NotWritable { .. } | HubError::Io { .. })
            ),
            "{error:?}"
        );
        Ok(())
    }
}
