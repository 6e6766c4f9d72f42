//! `--profile`: the time of each op of a step, on the device.

use anyhow::Result;
use longwave_contract::{Backend, Recording};
use serde::Serialize;

use crate::work::Work;

/// Times each op, of which the second counts: the first finds caches and clocks cold.
const ROUNDS: usize = 2;

/// All ops of one name in a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpTime {
    /// The op.
    pub op: &'static str,
    /// The kernels that served it.
    pub kernels: Vec<String>,
    /// How many there are.
    pub count: usize,
    /// Their time together.
    pub ns: u64,
    /// Of the time of all ops.
    pub share: f64,
    /// The least that they move.
    pub bytes_per_second: f64,
    /// The arithmetic that they need.
    pub flops_per_second: f64,
}

/// A step by its ops, the longest first.
pub type Profile = Vec<OpTime>;

/// Runs a recording whose tables are on the device, op by op.
///
/// # Errors
/// The backend takes no time of single ops, or fails.
pub fn profile(backend: &dyn Backend, recording: &Recording) -> Result<Profile> {
    let plan = backend.prepare(recording)?;
    let times = || -> Result<Vec<u64>> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times = backend.profile(plan)?;
        }
        Ok(times)
    };
    let (times, kernels) = (times(), backend.kernels(plan));
    backend.release(plan);
    let mut profile: Vec<(OpTime, Work)> = Vec::new();
    for (op, ns) in recording.ops().iter().zip(times?) {
        let work = Work::of(op, backend)?;
        match profile.iter_mut().find(|(known, _)| known.op == op.name()) {
            Some((known, sum)) => {
                known.count += 1;
                known.ns += ns;
                *sum = *sum + work;
            }
            None => {
                let served = OpTime {
                    op: op.name(),
                    kernels: kernels_of(op.name(), &kernels),
                    count: 1,
                    ns,
                    share: 0.0,
                    bytes_per_second: 0.0,
                    flops_per_second: 0.0,
                };
                profile.push((served, work));
            }
        }
    }
    let total: u64 = profile.iter().map(|(op, _)| op.ns).sum();
    let mut profile: Profile = profile
        .into_iter()
        .map(|(op, work)| {
            let seconds = op.ns.max(1) as f64 / 1e9;
            OpTime {
                share: op.ns as f64 / total.max(1) as f64,
                bytes_per_second: work.bytes / seconds,
                flops_per_second: work.flops / seconds,
                ..op
            }
        })
        .collect();
    profile.sort_by_key(|op| std::cmp::Reverse(op.ns));
    Ok(profile)
}

/// The kernels of an op, each once, from a list of `op: kernel`.
pub fn kernels_of(op: &str, kernels: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for kernel in kernels {
        if let Some((name, kernel)) = kernel.split_once(": ")
            && name == op
            && !found.iter().any(|known| known == kernel)
        {
            found.push(kernel.to_owned());
        }
    }
    found
}
