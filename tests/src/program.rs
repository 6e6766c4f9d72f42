//! The program, as users and other programs call it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The program beside this test, which `tests/run` builds.
///
/// # Errors
/// It is not there.
pub fn path() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("the test lies in no build folder")?;
    let program = folder.join(format!("longwave{}", std::env::consts::EXE_SUFFIX));
    ensure!(
        program.is_file(),
        "{} is not there: run `cargo build --release -p longwave` first",
        program.display()
    );
    Ok(program)
}

/// Calls it.
///
/// # Errors
/// It is not there.
pub fn call(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(path()?).args(arguments).output()?)
}

/// Calls it with lines on standard input.
///
/// # Errors
/// It is not there.
pub fn call_with(arguments: &[&str], lines: &str) -> Result<Output> {
    let mut called = Command::new(path()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It may end before it has read all.
    let _ = called
        .stdin
        .take()
        .map(|mut input| input.write_all(lines.as_bytes()));
    Ok(called.wait_with_output()?)
}

/// What it prints as JSON.
///
/// # Errors
/// It fails, with what it says about that, or prints something else.
pub fn json(arguments: &[&str]) -> Result<Value> {
    let output = call(arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "{arguments:?}: {:?}",
            String::from_utf8_lossy(&output.stdout)
        )
    })
}
