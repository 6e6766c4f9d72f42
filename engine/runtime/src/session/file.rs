//! The container: sections with a checksum each, and a directory of them at the end.
//!
//! ```text
//! magic, sections one after another, directory (JSON), its length (u64, little-endian), its SHA-256, magic
//! ```
//!
//! It is written to a temporary file beside its place, synced, and renamed: whatever happens meanwhile, what was there before stays whole.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::SessionError;

const MAGIC: &[u8; 8] = b"LWSESS01";

/// Length and checksum of the directory, and the magic number.
const END: u64 = 8 + 32 + 8;

/// A directory longer than this is none.
const LONGEST: u64 = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Section {
    name: String,
    offset: u64,
    bytes: u64,
    sha256: String,
}

/// The directory: what the file says of itself, and where its sections lie.
#[derive(Debug, Serialize, Deserialize)]
struct Directory<H> {
    header: H,
    sections: Vec<Section>,
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A session file that is being written.
pub(super) struct Writer {
    path: PathBuf,
    out: BufWriter<NamedTempFile>,
    at: u64,
    sections: Vec<Section>,
}

impl Writer {
    /// Begins a file that will take its place at `path`.
    pub fn new(path: &Path) -> Result<Self, SessionError> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let io = |source| SessionError::Io {
            path: path.to_owned(),
            source,
        };
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let made = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".part")
            .tempfile_in(folder);
        let mut writer = Writer {
            path: path.to_owned(),
            out: BufWriter::new(made.map_err(io)?),
            at: 0,
            sections: Vec::new(),
        };
        writer.write(MAGIC)?;
        Ok(writer)
    }

    fn io(&self, source: io::Error) -> SessionError {
        SessionError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.at += bytes.len() as u64;
        let written = self.out.write_all(bytes);
        written.map_err(|source| self.io(source))
    }

    /// Adds a section.
    pub fn add(&mut self, name: String, bytes: &[u8]) -> Result<(), SessionError> {
        let mut hash = Sha256::new();
        hash.update(bytes);
        self.sections.push(Section {
            name,
            offset: self.at,
            bytes: bytes.len() as u64,
            sha256: hex(hash),
        });
        self.write(bytes)
    }

    /// Ends the file and moves it to its place; returns its length.
    pub fn finish(mut self, header: &impl Serialize) -> Result<u64, SessionError> {
        let directory = Directory {
            header,
            sections: std::mem::take(&mut self.sections),
        };
        let directory = serde_json::to_vec(&directory).map_err(|error| self.io(error.into()))?;
        self.write(&directory)?;
        self.write(&(directory.len() as u64).to_le_bytes())?;
        self.write(&Sha256::digest(&directory))?;
        self.write(MAGIC)?;
        let (length, path) = (self.at, self.path);
        let io = |source| SessionError::Io {
            path: path.clone(),
            source,
        };
        let file = self
            .out
            .into_inner()
            .map_err(|error| io(error.into_error()))?;
        file.as_file().sync_all().map_err(io)?;
        let folder = file.path().parent().map(Path::to_owned);
        file.persist(&path).map_err(|error| io(error.error))?;
        // The new name is only safe once its folder is. Some systems cannot sync folders, and need not.
        if let Some(folder) = folder.and_then(|folder| File::open(folder).ok()) {
            let _ = folder.sync_all();
        }
        Ok(length)
    }
}

/// A session file that is being read.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    sections: Vec<Section>,
}

impl Reader {
    /// Opens a file and reads its directory.
    pub fn open<H: for<'a> Deserialize<'a>>(path: &Path) -> Result<(Self, H), SessionError> {
        let io = |source| SessionError::Io {
            path: path.to_owned(),
            source,
        };
        let none = |why: &str| SessionError::NoSession {
            path: path.to_owned(),
            why: why.into(),
        };
        let damaged = |why: String| SessionError::Damaged {
            path: path.to_owned(),
            section: "directory".into(),
            why,
        };
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let length = fs::metadata(path).map_err(io)?.len();
        let mut magic = [0; 8];
        if length < 8 + END {
            return Err(none("it is no session file"));
        }
        file.read_exact(&mut magic).map_err(io)?;
        if &magic != MAGIC {
            return Err(none("it is no session file"));
        }
        let mut end = [0; END as usize];
        file.seek(SeekFrom::Start(length - END)).map_err(io)?;
        file.read_exact(&mut end).map_err(io)?;
        let (size, rest) = end.split_at(8);
        let (checksum, magic) = rest.split_at(32);
        if magic != MAGIC {
            return Err(none("its end is missing: it was cut off"));
        }
        let size = u64::from_le_bytes(size.try_into().unwrap_or_default());
        let Some(at) = (length - END).checked_sub(size).filter(|_| size <= LONGEST) else {
            return Err(damaged(format!(
                "it has {size} bytes in a file of {length}"
            )));
        };
        let mut directory = vec![0; size as usize];
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        file.read_exact(&mut directory).map_err(io)?;
        if Sha256::digest(&directory).as_slice() != checksum {
            return Err(damaged("its checksum is another".into()));
        }
        let directory: Directory<H> =
            serde_json::from_slice(&directory).map_err(|error| damaged(error.to_string()))?;
        // What the checksum covers may still come from another version.
        for Section {
            name,
            offset,
            bytes,
            ..
        } in &directory.sections
        {
            if offset.checked_add(*bytes).is_none_or(|end| end > at) {
                return Err(damaged(format!("the section {name} lies beyond the file")));
            }
        }
        let reader = Reader {
            path: path.to_owned(),
            file,
            sections: directory.sections,
        };
        Ok((reader, directory.header))
    }

    /// The bytes of a section; `None` where there is none of that name.
    pub fn section(&mut self, name: &str) -> Result<Option<Vec<u8>>, SessionError> {
        let Some(section) = self.sections.iter().find(|section| section.name == name) else {
            return Ok(None);
        };
        let mut bytes = vec![0; section.bytes as usize];
        let at = SeekFrom::Start(section.offset);
        let read = self
            .file
            .seek(at)
            .and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|source| SessionError::Io {
            path: self.path.clone(),
            source,
        })?;
        let mut hash = Sha256::new();
        hash.update(&bytes);
        if hex(hash) != section.sha256 {
            return Err(self.damaged(name, "its checksum is another"));
        }
        Ok(Some(bytes))
    }

    /// Whether all sections are whole.
    pub fn verify(&mut self) -> Result<(), SessionError> {
        let names: Vec<String> = self
            .sections
            .iter()
            .map(|section| section.name.clone())
            .collect();
        names
            .iter()
            .try_for_each(|name| self.section(name).map(|_| ()))
    }

    /// As [`Reader::section`], for one that must be there.
    pub fn needed(&mut self, name: &str) -> Result<Vec<u8>, SessionError> {
        let found = self.section(name)?;
        found.ok_or_else(|| self.damaged(name, "it is missing"))
    }

    pub fn damaged(&self, section: &str, why: &str) -> SessionError {
        SessionError::Damaged {
            path: self.path.clone(),
            section: section.into(),
            why: why.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, sections: &[(&str, &[u8])]) -> u64 {
        let mut writer = Writer::new(path).expect("the folder is there");
        for (name, bytes) in sections {
            writer.add((*name).into(), bytes).expect("there is room");
        }
        writer.finish(&7).expect("there is room")
    }

    #[test]
    fn sections_come_back_and_every_damaged_byte_is_named() {
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("one.session");
        let sections: [(&str, &[u8]); 3] = [("a", b"first"), ("b", b""), ("c", &[9; 100])];
        let length = write(&path, &sections);
        let whole = fs::read(&path).expect("it is there");
        assert_eq!(whole.len() as u64, length);
        let (mut reader, header) = Reader::open::<u32>(&path).expect("it is whole");
        assert_eq!(header, 7);
        for (name, bytes) in sections {
            assert_eq!(reader.needed(name).expect("it is whole"), bytes);
        }
        assert!(reader.section("d").expect("it is whole").is_none());
        assert!(reader.needed("d").is_err());
        let all = |path: &Path| -> Result<(), SessionError> {
            let (mut reader, _) = Reader::open::<u32>(path)?;
            ["a", "b", "c"]
                .into_iter()
                .try_for_each(|name| reader.needed(name).map(|_| ()))
        };
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            fs::write(&path, &damaged).expect("there is room");
            let error = all(&path).expect_err("a byte is another").to_string();
            let part = match at {
                8..13 => "section a is damaged",
                13..113 => "section c is damaged",
                _ => "",
            };
            assert!(error.contains(part), "byte {at}: {error}");
            fs::write(&path, &whole[..at]).expect("there is room");
            assert!(all(&path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_is_not_finished_leaves_what_was_there() {
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("one.session");
        write(&path, &[("a", b"old")]);
        let mut writer = Writer::new(&path).expect("the folder is there");
        writer.add("a".into(), b"new").expect("there is room");
        drop(writer);
        let (mut reader, _) = Reader::open::<u32>(&path).expect("it is whole");
        assert_eq!(reader.needed("a").expect("it is whole"), b"old");
        let left = fs::read_dir(folder.path()).expect("it is there").count();
        assert_eq!(left, 1);
        assert!(Writer::new(&folder.path().join("none/one")).is_err());
    }
}
