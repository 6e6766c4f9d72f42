//! Sources that fail in every way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use zip::write::SimpleFileOptions;

use super::remote::Listing;
use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Eleven parts of one letter each, so that part 10 must come after part 9.
static LETTERS: Alias = Alias {
    name: "letters:11",
    file: "letters.gguf",
    size: 11,
    sha256: "ca2f2069ea0c6e4658222e06f8dd639659cbb5e67cbbba6734bc334a3799bc68",
    hub: &[HubCandidate {
        repository: "org/letters",
        file: "letters.gguf",
    }],
    packages: Packages {
        name: "letters-part",
        parts: Some(11),
        version: "1.0",
        member_suffix: ".bin",
    },
};

/// A package index in memory: requirement to the bytes of its member.
#[derive(Default)]
struct FakePackages {
    members: BTreeMap<String, Vec<u8>>,
    broken: Mutex<BTreeSet<String>>,
    calls: Mutex<Vec<String>>,
    delay: Duration,
}

impl FakePackages {
    fn letters() -> Self {
        let members = ('a'..='k')
            .enumerate()
            .map(|(index, letter)| {
                let requirement = format!("letters-part{}==1.0", index + 1);
                (requirement, letter.to_string().into_bytes())
            })
            .collect();
        FakePackages {
            members,
            ..FakePackages::default()
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls
            .lock()
            .map(|calls| calls.clone())
            .unwrap_or_default()
    }
}

impl PackageSource for FakePackages {
    fn fetch(
        &self,
        requirement: &str,
        destination: &Path,
        arrived: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        std::thread::sleep(self.delay);
        if let Ok(mut calls) = self.calls.lock() {
            calls.push(requirement.to_string());
        }
        // What an interrupted pip leaves must do no harm.
        fs::write(destination.join("half.tmp"), b"half")
            .map_err(|source| HubError::io("write", destination, source))?;
        let broken = self
            .broken
            .lock()
            .is_ok_and(|broken| broken.contains(requirement));
        let Some(member) = self.members.get(requirement).filter(|_| !broken) else {
            return Err(HubError::PackageFailed {
                requirement: requirement.to_string(),
                detail: "no such package".to_string(),
            });
        };
        arrived(1);
        write_wheel(&destination.join("any-name.whl"), member).map_err(|error| HubError::Archive {
            path: destination.to_path_buf(),
            reason: error.to_string(),
        })
    }
}

fn write_wheel(path: &Path, member: &[u8]) -> Outcome {
    let mut archive = zip::ZipWriter::new(fs::File::create(path)?);
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("package/__init__.py", stored)?;
    archive.write_all(b"raise SystemExit")?;
    archive.start_file("package/data/part.bin", stored)?;
    archive.write_all(member)?;
    archive.finish()?;
    Ok(())
}

/// A hub in memory with one repository state.
struct FakeRemote {
    files: Vec<(RemoteFile, Vec<u8>)>,
}

impl FakeRemote {
    fn with(path: &str, bytes: &[u8]) -> Self {
        FakeRemote {
            files: vec![(
                RemoteFile {
                    path: path.to_string(),
                    size: bytes.len() as u64,
                    sha256: None,
                },
                bytes.to_vec(),
            )],
        }
    }
}

impl Remote for FakeRemote {
    fn list(&self, _: &Repository, _: Duration) -> Result<Listing, HubError> {
        Ok(Listing {
            revision: "abc".to_string(),
            files: self.files.iter().map(|(file, _)| file.clone()).collect(),
        })
    }

    fn read(
        &self,
        repository: &Repository,
        _: &str,
        path: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<u8>, HubError> {
        let bytes = self.files.iter().find(|(file, _)| file.path == path);
        let range = range.start as usize..range.end as usize;
        bytes
            .and_then(|(_, bytes)| bytes.get(range))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| HubError::FileMissing {
                repository: repository.to_string(),
                file: path.to_string(),
                available: Vec::new(),
            })
    }
}

fn options(directory: &Path) -> ResolveOptions {
    ResolveOptions {
        cache_directory: Some(directory.to_path_buf()),
        ..ResolveOptions::default()
    }
}

fn without_hub(directory: &Path) -> ResolveOptions {
    ResolveOptions {
        skip_hub: true,
        ..options(directory)
    }
}

fn letters(
    options: &ResolveOptions,
    remote: &dyn Remote,
    packages: &FakePackages,
) -> Result<LocalModel, HubError> {
    let reference = ModelReference::Alias(&LETTERS);
    resolve_from(&reference, options, remote, packages, &mut |_| {})
}

fn final_path(directory: &Path) -> PathBuf {
    directory
        .join("alias")
        .join("letters-11")
        .join("letters.gguf")
}

fn silent() -> FakeRemote {
    FakeRemote { files: Vec::new() }
}

#[test]
fn parts_are_joined_in_the_order_of_their_numbers() -> Outcome {
    let directory = tempfile::tempdir()?;
    let packages = FakePackages::letters();
    let model = letters(&without_hub(directory.path()), &silent(), &packages)?;
    let path = final_path(directory.path());
    assert_eq!(model, LocalModel::Gguf(path.clone()));
    assert_eq!(fs::read(path)?, b"abcdefghijk");
    assert!(
        !directory.path().join("partial/letters-11").exists(),
        "parts are cleared"
    );
    letters(&without_hub(directory.path()), &silent(), &packages)?;
    assert_eq!(
        packages.calls().len(),
        11,
        "the second time nothing is fetched"
    );
    Ok(())
}

#[test]
fn an_interrupted_fetch_goes_on_with_the_missing_part() -> Outcome {
    let directory = tempfile::tempdir()?;
    let packages = FakePackages::letters();
    let fifth = "letters-part5==1.0".to_string();
    if let Ok(mut broken) = packages.broken.lock() {
        broken.insert(fifth.clone());
    }
    let error = letters(&without_hub(directory.path()), &silent(), &packages);
    assert!(
        matches!(&error, Err(HubError::NoSource { attempts, .. })
            if matches!(attempts.as_slice(), [HubError::PackageFailed { requirement, .. }] if *requirement == fifth)),
        "{error:?}"
    );
    assert!(!final_path(directory.path()).exists());
    // One of the kept parts is cut short, as by a full disk.
    let kept = directory
        .path()
        .join("partial/letters-11/letters-part2-1.0.whl");
    let length = fs::metadata(&kept)?.len();
    fs::File::options()
        .write(true)
        .open(&kept)?
        .set_len(length - 9)?;
    if let Ok(mut broken) = packages.broken.lock() {
        broken.clear();
    }
    letters(&without_hub(directory.path()), &silent(), &packages)?;
    let again = packages.calls().split_off(5);
    let expected: Vec<String> = [2, 5, 6, 7, 8, 9, 10, 11]
        .iter()
        .map(|part| format!("letters-part{part}==1.0"))
        .collect();
    assert_eq!(again, expected);
    Ok(())
}

#[test]
fn a_kept_part_with_a_wrong_checksum_is_fetched_again() -> Outcome {
    let directory = tempfile::tempdir()?;
    let packages = FakePackages::letters();
    let kept = directory
        .path()
        .join("partial/letters-11/letters-part3-1.0.whl");
    fs::create_dir_all(kept.parent().ok_or("a parent")?)?;
    write_wheel(&kept, b"c")?;
    let mut bytes = fs::read(&kept)?;
    let name = b"package/data/part.bin";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .ok_or("the member")?;
    bytes[at + name.len()] ^= 1;
    fs::write(&kept, bytes)?;
    letters(&without_hub(directory.path()), &silent(), &packages)?;
    assert_eq!(
        packages.calls().last().map(String::as_str),
        Some("letters-part3==1.0")
    );
    assert_eq!(packages.calls().len(), 11);
    Ok(())
}

#[test]
fn wrong_bytes_are_refused_with_both_hashes_and_leave_nothing() -> Outcome {
    let directory = tempfile::tempdir()?;
    let mut packages = FakePackages::letters();
    packages
        .members
        .insert("letters-part4==1.0".to_string(), b"X".to_vec());
    let other = FakeRemote::with("letters.gguf", b"kjihgfedcba");
    let error = letters(&options(directory.path()), &other, &packages)
        .expect_err("neither source has the bytes");
    let HubError::NoSource { attempts, .. } = &error else {
        return Err(error.into());
    };
    assert_eq!(attempts.len(), 2);
    for (attempt, source) in attempts.iter().zip(["org/letters", "the packages"]) {
        assert!(
            matches!(attempt, HubError::HashMismatch { origin, expected, found, .. }
                if origin == source && expected == LETTERS.sha256 && found.len() == 64 && found != expected),
            "{attempt:?}"
        );
    }
    assert_eq!(error.to_string().matches(LETTERS.sha256).count(), 2);
    let left: Vec<_> = fs::read_dir(directory.path().join("alias/letters-11"))?.collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn the_hub_is_asked_first_and_packages_stand_in() -> Outcome {
    let directory = tempfile::tempdir()?;
    let packages = FakePackages::letters();
    let hub = FakeRemote::with("letters.gguf", b"abcdefghijk");
    letters(&options(directory.path()), &hub, &packages)?;
    assert!(packages.calls().is_empty());
    // Another length is refused before its bytes are fetched.
    let directory = tempfile::tempdir()?;
    let mut messages = Vec::new();
    resolve_from(
        &ModelReference::Alias(&LETTERS),
        &options(directory.path()),
        &FakeRemote::with("letters.gguf", b"abc"),
        &packages,
        &mut |progress| {
            if let Progress::Message(message) = progress {
                messages.push(message.to_string());
            }
        },
    )?;
    assert_eq!(packages.calls().len(), 11);
    assert!(
        messages
            .iter()
            .any(|message| message.contains("has 3 bytes where 11")),
        "{messages:?}"
    );
    Ok(())
}

#[test]
fn a_partial_file_of_another_origin_is_started_over() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = final_path(directory.path());
    fs::create_dir_all(path.parent().ok_or("a parent")?)?;
    fs::write(path.with_extension("gguf.partial"), b"zzzz")?;
    let hub = FakeRemote::with("letters.gguf", b"abcdefghijk");
    letters(&options(directory.path()), &hub, &FakePackages::default())?;
    assert_eq!(fs::read(path)?, b"abcdefghijk");
    Ok(())
}

#[test]
fn a_corrupt_cached_file_is_fetched_again_or_named_offline() -> Outcome {
    let directory = tempfile::tempdir()?;
    let packages = FakePackages::letters();
    let offline = ResolveOptions {
        offline: true,
        ..options(directory.path())
    };
    let absent = letters(&offline, &silent(), &packages);
    assert!(
        matches!(absent, Err(HubError::Offline { .. })),
        "{absent:?}"
    );
    letters(&without_hub(directory.path()), &silent(), &packages)?;
    letters(&offline, &silent(), &packages)?;
    let path = final_path(directory.path());
    fs::write(&path, b"abcdefghij")?;
    let corrupt = letters(&offline, &silent(), &packages);
    assert!(
        matches!(corrupt, Err(HubError::SizeMismatch { found: 10, .. })),
        "{corrupt:?}"
    );
    letters(&without_hub(directory.path()), &silent(), &packages)?;
    assert_eq!(fs::read(&path)?, b"abcdefghijk");
    Ok(())
}

#[test]
fn two_at_once_fetch_once() -> Outcome {
    let directory = tempfile::tempdir()?;
    let packages = FakePackages {
        delay: Duration::from_millis(20),
        ..FakePackages::letters()
    };
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| letters(&without_hub(directory.path()), &silent(), &packages)))
            .collect();
        for run in runs {
            let model = run.join().map_err(|_| "a thread panicked")?;
            assert_eq!(model?, LocalModel::Gguf(final_path(directory.path())));
        }
        Ok::<(), Box<dyn std::error::Error>>(())
    })?;
    assert_eq!(packages.calls().len(), 11);
    Ok(())
}

#[test]
fn an_unwritable_cache_is_named_and_stays_empty() -> Outcome {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file");
    fs::write(&file, b"not a directory")?;
    let packages = FakePackages::letters();
    let error = letters(&without_hub(&file.join("cache")), &silent(), &packages);
    assert!(
        matches!(error, Err(HubError::NotWritable { .. })),
        "{error:?}"
    );
    assert!(packages.calls().is_empty());
    assert_eq!(fs::read(&file)?, b"not a directory");
    Ok(())
}

#[test]
fn the_environment_switches_sources_off() {
    let with = |name: &'static str, value: &'static str| {
        ResolveOptions::from_variables(move |asked| (asked == name).then(|| value.into()))
    };
    assert!(with("LONGWAVE_OFFLINE", "1").offline);
    assert!(!with("LONGWAVE_OFFLINE", "0").offline);
    assert!(with("HF_HUB_OFFLINE", "true").skip_hub);
    assert_eq!(with("OTHER", "1"), ResolveOptions::default());
}

#[test]
fn names_that_leave_the_cache_are_refused() -> Outcome {
    let directory = tempfile::tempdir()?;
    let hub = FakeRemote::with("../../escape.gguf", b"x");
    let reference = ModelReference::parse("org/evil")?;
    let packages = FakePackages::default();
    let error = resolve_from(
        &reference,
        &options(directory.path()),
        &hub,
        &packages,
        &mut |_| {},
    );
    assert!(
        matches!(error, Err(HubError::UnsafePath { .. })),
        "{error:?}"
    );
    Ok(())
}

/// Really fetches every alias into `$XDG_CACHE_HOME` (1.7 GB): run it by name with `--ignored --nocapture`.
#[test]
#[ignore = "downloads 1.7 GB"]
#[expect(clippy::print_stderr, reason = "run by hand, to be watched")]
fn every_alias_resolves_for_real() -> Outcome {
    for alias in aliases() {
        let started = Instant::now();
        let mut last = String::new();
        let model = resolve(
            &ModelReference::parse(alias.name)?,
            &ResolveOptions::from_environment(),
            &mut |progress| {
                let line = match progress {
                    Progress::Downloading { what, .. } => format!("downloading {what}"),
                    Progress::Verifying { what, .. } => format!("verifying {what}"),
                    Progress::Message(message) => message.to_string(),
                };
                if line != last {
                    eprintln!("{:6.1} s  {line}", started.elapsed().as_secs_f32());
                    last = line;
                }
            },
        )?;
        let LocalModel::Gguf(path) = model else {
            return Err("an alias is a GGUF file".into());
        };
        assert_eq!(fs::metadata(&path)?.len(), alias.size);
        eprintln!(
            "{:6.1} s  {} is {}",
            started.elapsed().as_secs_f32(),
            alias.name,
            path.display()
        );
    }
    Ok(())
}
