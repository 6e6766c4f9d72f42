//! Kernels that CUDA keeps on disk. wgpu's are the driver's, and tested in `engine/wgpu/tests`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Error, Result, ensure};
use libtest_mimic::Trial;
use longwave_tests::{adapter, trial};

use super::same;

pub(crate) fn trials() -> Vec<Trial> {
    let present = || adapter::cuda().map(|_| ());
    vec![
        trial::with(
            "kernels: what is kept is not compiled again on cuda",
            present(),
            |()| kept_kernels_are_used(),
        ),
        trial::with(
            "kernels: a damaged file costs time only on cuda",
            present(),
            |()| damage_costs_time_only(),
        ),
    ]
}

/// Opens the device with kernels kept in a folder, and has one compiled or found.
fn used(folder: &Path) -> Result<()> {
    let subject = adapter::cuda_with(|options| options.kernels = Some(folder.into()));
    super::plans::embed(&subject.map_err(Error::msg)?)
}

/// Each file with its content and the time of its last change.
fn files(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>, SystemTime)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.join("cuda"))? {
        let path = entry?.path();
        let changed = std::fs::metadata(&path)?.modified()?;
        let content = std::fs::read(&path)?;
        found.push((path, content, changed));
    }
    found.sort();
    Ok(found)
}

fn kept_kernels_are_used() -> Result<()> {
    let folder = tempfile::tempdir()?;
    used(folder.path())?;
    let kept = files(folder.path())?;
    let some = !kept.is_empty() && kept.iter().all(|(_, content, _)| !content.is_empty());
    ensure!(some, "{} files", kept.len());
    used(folder.path())?;
    // What is compiled is written, which would show in the time.
    ensure!(files(folder.path())? == kept, "the files have changed");
    Ok(())
}

fn damage_costs_time_only() -> Result<()> {
    let folder = tempfile::tempdir()?;
    used(folder.path())?;
    let kept = files(folder.path())?;
    for (path, content, _) in &kept {
        let mut flipped = content.clone();
        flipped[content.len() / 2] ^= 1;
        // The driver is not told how long an image is: half of one must not reach it.
        for damaged in [&content[..content.len() / 2], &flipped, b"no kernel", b""] {
            std::fs::write(path, damaged)?;
            used(folder.path())?;
            let repaired = std::fs::metadata(path)?.len();
            same(repaired, content.len() as u64, "bytes of the file")?;
            ensure!(std::fs::read(path)? != damaged, "the file stayed damaged");
        }
    }
    same(files(folder.path())?.len(), kept.len(), "files left")
}
