//! Rung 1: does every backend keep what the trait says of buffers, of plans, and of what fails?
//!
//! One suite for all backends, so what it asks for is the contract's, not a driver's. What one backend alone has is tested where it is: wgpu's
//! slabs, staging ring, submissions and forced kernels in `engine/wgpu/tests`, kernels that CUDA keeps on disk in `kernels`.
//!
//! All trials of a backend share one, as sequences do: whatever one leaves behind, the next meets.

mod bench;
mod kernels;
mod limits;
mod memory;
mod plans;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use longwave_contract::{Backend, BackendError};
use longwave_tests::{adapter, trial};

/// A trial's name and what it does.
type Case = (&'static str, fn(&Arc<dyn Backend>) -> Result<()>);

/// Trials that a backend is spared, each with its reason.
const SPARED: [(&str, &str, &str); 1] = [(
    "wgpu",
    "memory: more than any device has is refused",
    "it allocates slab by slab until the driver refuses, and a software driver never does",
)];

/// Fails with what was found where it is not what was expected.
fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let mut text = format!("{what}: found {found:?}, expected {expected:?}");
    text.truncate(400);
    Err(anyhow!(text))
}

/// Fails where a call was not refused for a handle or a range that does not exist.
fn refused<T: std::fmt::Debug>(outcome: Result<T, BackendError>, what: &str) -> Result<()> {
    let noticed = matches!(outcome, Err(BackendError::BadHandle { .. }));
    ensure!(noticed, "{what}: {outcome:?}");
    Ok(())
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (backend, subject) in adapter::all() {
        for &(name, test) in [memory::TRIALS, plans::TRIALS].into_iter().flatten() {
            let spared = SPARED
                .iter()
                .find(|(whom, what, _)| *whom == backend && *what == name);
            let subject = match spared {
                Some((_, _, why)) => Err((*why).to_owned()),
                None => subject.clone(),
            };
            let title = format!("{name} on {backend}");
            trials.push(trial::with(title, subject, move |subject| test(&subject)));
        }
    }
    trials.extend(limits::trials());
    trials.extend(kernels::trials());
    trial::run(trials)
}
