//! Says which commit the program is built from, for what it records.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=LONGWAVE_COMMIT");
    for folder in ["benches", "cli", "engine", "shaders", "tests", "Cargo.lock"] {
        println!("cargo::rerun-if-changed=../{folder}");
    }
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    // A copy of the tree without its history is told by the environment.
    let commit = std::env::var("LONGWAVE_COMMIT").ok();
    let described = || git(&["describe", "--always", "--dirty", "--abbrev=12"]);
    let commit = commit.or_else(described);
    let commit = commit.unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=LONGWAVE_COMMIT={commit}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
