//! The program as a shell sees it: exit codes, messages and streams, without a model.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn longwave(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longwave"));
    // Some graphics drivers complain on standard error where the second is not set.
    command
        .args(arguments)
        .env("LONGWAVE_OFFLINE", "1")
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .stdin(Stdio::null());
    command
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_command_line_that_is_not_understood_gives_2() -> Outcome {
    let cases: [(&[&str], &str); 10] = [
        (&[], "Usage"),
        (&["walk"], "walk"),
        (&["run"], "--tokens"),
        (&["run", "hello", "--kv", "nonsense"], "dense"),
        (&["run", "hello", "--backend", "abacus"], "wgpu"),
        (&["run", "--tokens", "1,x"], "token 2 is `x`"),
        (&["run", "--tokens", ""], "empty"),
        (&["logits", "--tokens", "4294967296"], "4294967296"),
        (&["trace"], "--tokens"),
        (&["run", "hello", "--tokens", "1"], "cannot be used with"),
    ];
    for (arguments, expected) in cases {
        let output = longwave(arguments).output()?;
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            errors(&output)
        );
        assert!(
            errors(&output).contains(expected),
            "{arguments:?}: {}",
            errors(&output)
        );
        assert!(
            output.stdout.is_empty(),
            "{arguments:?} wrote to standard output"
        );
    }
    Ok(())
}

#[test]
fn a_failure_gives_1_and_one_line() -> Outcome {
    let cases: [(&[&str], &str); 7] = [
        (
            &["run", "-m", "/no/such/model.gguf", "hello"],
            "/no/such/model.gguf",
        ),
        (&["run", "-m", "smollm3", "hello"], "smollm3"),
        (
            &["run", "-f", "/no/such/prompt", "hello"],
            "/no/such/prompt",
        ),
        (&["run", ""], "empty"),
        (
            &["run", "--backend", "cpu", "--device", "toaster", "hello"],
            "toaster",
        ),
        (
            &["run", "--backend", "wgpu", "--device", "toaster", "hello"],
            "toaster",
        ),
        (&["inspect", "/no/such/directory"], "/no/such/directory"),
    ];
    for (arguments, expected) in cases {
        let output = longwave(arguments).output()?;
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(
            errors.starts_with("error: ") && errors.contains(expected),
            "{arguments:?}: {errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{arguments:?}: {errors}");
        assert!(
            output.stdout.is_empty(),
            "{arguments:?} wrote to standard output"
        );
    }
    Ok(())
}

#[test]
fn the_devices_are_listed_and_one_is_picked() -> Outcome {
    let output = longwave(&["devices", "--json"]).output()?;
    assert!(output.status.success(), "{}", errors(&output));
    let value: Value = serde_json::from_slice(&output.stdout)?;
    let devices = value["devices"].as_array().ok_or("no list of devices")?;
    assert_eq!(devices.first().ok_or("no device")?["backend"], "cpu");
    let picked = &value["auto"]["backend"];
    assert!(
        devices.iter().any(|device| &device["backend"] == picked),
        "{value}"
    );
    let words = String::from_utf8(longwave(&["devices"]).output()?.stdout)?;
    assert!(words.contains("auto picks"), "{words}");
    Ok(())
}

#[test]
fn a_reader_that_leaves_is_no_failure() -> Outcome {
    let mut child = longwave(&["devices"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    assert_eq!(
        (output.status.code(), errors(&output)),
        (Some(0), String::new())
    );
    Ok(())
}
