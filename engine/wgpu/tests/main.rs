//! The backend on a real adapter: what it alone has of memory, plans and faults. What every backend must do is in `tests/conformance`.
//!
//! Whether there is an adapter is known only at run time, so these trials run on a harness of their own: without one they show as ignored,
//! with the reason. `LONGWAVE_TEST_DEVICE` names the device; otherwise it is the best one, a software one where there is no other.

mod faults;
mod memory;
mod plans;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use longwave_contract::BackendError;
use longwave_wgpu::{WgpuBackend, WgpuOptions};

/// What a trial returns.
type Outcome = Result<(), Failed>;

/// A trial's name and what it does.
type Case = (&'static str, fn() -> Outcome);

/// The backend on the device under test.
fn open(change: impl FnOnce(&mut WgpuOptions)) -> Result<WgpuBackend, BackendError> {
    let mut options = WgpuOptions {
        device: std::env::var("LONGWAVE_TEST_DEVICE").ok(),
        allow_software: true,
        ..WgpuOptions::default()
    };
    change(&mut options);
    WgpuBackend::open(&options)
}

/// Fails with what was found where it is not what was expected.
fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: &str) -> Outcome {
    if found == expected {
        return Ok(());
    }
    let mut text = format!("{what}: found {found:?}, expected {expected:?}");
    text.truncate(400);
    Err(text.into())
}

/// Fails where a condition does not hold.
fn holds(condition: bool, what: impl std::fmt::Display) -> Outcome {
    condition
        .then_some(())
        .ok_or_else(|| what.to_string().into())
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One device, and few cores.
    arguments.test_threads = Some(1);
    // A device that is there and does not open is a failure.
    let missing = longwave_wgpu::devices().is_empty();
    let reason = missing.then_some("there is no adapter");
    let trials = [memory::TRIALS, plans::TRIALS, faults::TRIALS].concat();
    let trials = trials.into_iter().map(|(name, test)| match reason {
        None => Trial::test(name, test),
        Some(reason) => {
            Trial::test(format!("{name} (ignored: {reason})"), || Ok(())).with_ignored_flag(true)
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
