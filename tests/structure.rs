//! Rung 0: is the repository what `engine/ARCHITECTURE.md` says?

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use longwave_contract::Op;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = root().join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Every file below a folder, as paths from the root; build outputs and hidden folders left out.
fn files(folder: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            let path = folder.join(&name);
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                found.push(
                    path.display()
                        .to_string()
                        .trim_start_matches("./")
                        .to_owned(),
                );
            }
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn the_root_holds_what_it_should() -> Result<()> {
    let mut allowed: BTreeSet<&str> = [
        "engine",
        "shaders",
        "cuda-kernels",
        "cli",
        "tests",
        "benches",
        "Cargo.toml",
        "README.md",
    ]
    .into();
    allowed.extend([
        "Cargo.lock",
        "LICENSE",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "rust-toolchain.toml",
        "target",
    ]);
    for entry in std::fs::read_dir(root())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(
            name.starts_with('.') || allowed.contains(name.as_str()),
            "{name} does not belong at the root"
        );
    }
    Ok(())
}

/// Places where an op has no file of its own, each with its reason.
const GAPS: [(&str, &[&str], &str); 4] = [
    ("linear", KERNELS, "a matmul: matmul_* in shared/ serve it"),
    (
        "linear_add",
        KERNELS,
        "a matmul with an addition: matmul_* in shared/ serve it",
    ),
    (
        "norm_linear",
        KERNELS,
        "a norm and a matmul: shared/ serves both",
    ),
    (
        "restore",
        &["shaders/op"],
        "the shaders of its parts serve it: unpack, matmul_* and rope",
    ),
];

/// Where kernels of ops live.
const KERNELS: &[&str] = &["shaders/op", "cuda-kernels/op"];

#[test]
fn every_op_has_one_name_everywhere() -> Result<()> {
    let places = [
        "engine/contract/src/op",
        "engine/cpu/src/op",
        "engine/wgpu/src/launch",
        "engine/cuda/src/launch",
        "shaders/op",
        "cuda-kernels/op",
        "tests/op",
        "benches/src/op",
    ];
    for place in places {
        let names = files(place)?;
        for op in Op::NAMES {
            let prefix = format!("{place}/{op}");
            let has = names.iter().any(|name| name.starts_with(&prefix));
            let gap = GAPS
                .iter()
                .find(|(name, folders, _)| name == op && folders.contains(&place));
            ensure!(
                has != gap.is_some(),
                "{op} in {place}: file {has}, listed as a gap {}",
                gap.is_some()
            );
        }
    }
    Ok(())
}

#[test]
fn crates_depend_only_along_the_edges() -> Result<()> {
    let edges: [(&str, &[&str]); 8] = [
        ("engine/contract", &[]),
        ("engine/cpu", &["longwave-contract"]),
        ("engine/wgpu", &["longwave-contract", "longwave-shaders"]),
        (
            "engine/cuda",
            &["longwave-contract", "longwave-cuda-kernels"],
        ),
        ("engine/runtime", &["longwave-contract"]),
        ("engine/server", &["longwave-contract", "longwave-runtime"]),
        ("shaders", &[]),
        ("cuda-kernels", &[]),
    ];
    for (package, allowed) in edges {
        let manifest = read(format!("{package}/Cargo.toml"))?;
        for line in manifest
            .lines()
            .filter(|line| line.starts_with("longwave-"))
        {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            ensure!(allowed.contains(&name), "{package} depends on {name}");
        }
    }
    let contract = read("engine/contract/Cargo.toml")?;
    let dependencies = contract
        .split("[dependencies]")
        .nth(1)
        .context("no dependencies")?;
    let names: Vec<&str> = dependencies
        .lines()
        .filter_map(|line| line.split('.').next())
        .filter(|name| !name.is_empty())
        .collect();
    ensure!(
        names == ["bytemuck", "half", "thiserror"],
        "the contract depends on {names:?}"
    );
    Ok(())
}

#[test]
fn unsafe_is_where_it_is_allowed_and_says_why() -> Result<()> {
    let allowed = [
        "engine/wgpu/",
        "engine/cuda/",
        "engine/runtime/src/format/map.rs",
    ];
    for file in files(".")?.iter().filter(|file| file.ends_with(".rs")) {
        let text = read(file)?;
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.contains(concat!("un", "safe {")) && !code.contains(concat!("un", "safe impl"))
            {
                continue;
            }
            ensure!(
                allowed.iter().any(|place| file.starts_with(place)),
                "{file}:{}: not allowed here",
                index + 1
            );
            let before = lines[index.saturating_sub(6)..index].join("\n");
            ensure!(
                before.contains("SAFETY"),
                "{file}:{}: no SAFETY comment above",
                index + 1
            );
        }
    }
    Ok(())
}

#[test]
fn kernels_live_in_their_folders_and_begin_alike() -> Result<()> {
    for file in files(".")? {
        if file.ends_with(".wgsl") {
            ensure!(
                file.starts_with("shaders/"),
                "{file} is outside of shaders/"
            );
        }
        if file.ends_with(".cu") || file.ends_with(".cuh") {
            ensure!(
                file.starts_with("cuda-kernels/"),
                "{file} is outside of cuda-kernels/"
            );
        }
    }
    let headers = ["what", "contract", "grid", "shared", "numerics"];
    let folders = [
        "shaders/op",
        "shaders/shared",
        "cuda-kernels/op",
        "cuda-kernels/shared",
    ];
    let kernels = folders.iter().map(|folder| files(folder));
    for file in kernels.collect::<Result<Vec<_>>>()?.iter().flatten() {
        let text = read(file)?;
        let comment: String = text
            .lines()
            .take_while(|line| line.starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n")
            .to_lowercase();
        for header in headers {
            ensure!(
                comment.contains(&format!("// {header}")),
                "{file}: the header has no line `{header}`"
            );
        }
    }
    Ok(())
}

/// A kernel may begin before the one ahead of it has ended: one that does not wait, itself or in a part that it includes, races with it.
#[test]
fn cuda_kernels_wait_for_those_before_them() -> Result<()> {
    fn waits(file: &str) -> Result<bool> {
        let text = read(file)?;
        let parts = text
            .lines()
            .filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
        let mut found = text.contains("wait_for_inputs();");
        for part in parts {
            found = found || waits(&format!("cuda-kernels/{part}"))?;
        }
        Ok(found)
    }
    for folder in ["cuda-kernels/op", "cuda-kernels/shared"] {
        for file in files(folder)? {
            ensure!(waits(&file)?, "{file} never waits for its inputs");
        }
    }
    Ok(())
}

fn is_code(file: &str) -> bool {
    [".rs", ".wgsl", ".cu", ".cuh"]
        .iter()
        .any(|end| file.ends_with(end))
}

#[test]
fn files_can_be_read_in_one_sitting() -> Result<()> {
    for file in files(".")?.iter().filter(|file| is_code(file)) {
        let lines = read(file)?.lines().count();
        ensure!(lines <= 600, "{file} has {lines} lines");
    }
    Ok(())
}

#[test]
fn nothing_is_left_open() -> Result<()> {
    let marks = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
    ];
    for file in files(".")?.iter().filter(|file| is_code(file)) {
        let text = read(file)?;
        for mark in marks {
            ensure!(!text.contains(mark), "{file} contains {mark}");
        }
    }
    Ok(())
}
