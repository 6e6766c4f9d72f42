//! `--profile`: the time of each op of a prompt or a token, on the device.

use anyhow::Result;
use longwave_contract::{Backend, Recording};
use serde::Serialize;

use crate::work::Work;

/// All ops of one name.
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

/// A test by its ops, the longest first.
pub type Profile = Vec<OpTime>;

/// Adds up what the ops of several plans take.
#[derive(Debug, Default)]
pub struct Tally {
    ops: Vec<(OpTime, Work)>,
}

impl Tally {
    /// Adds a recording whose tables are on the device, the nanoseconds of its ops, and its kernels as `op: kernel`.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn add(
        &mut self,
        recording: &Recording,
        times: &[u64],
        kernels: &[String],
        backend: &dyn Backend,
    ) -> Result<()> {
        for (op, ns) in recording.ops().iter().zip(times) {
            let work = Work::of(op, backend)?;
            let served = kernels_of(op.name(), kernels);
            match self.ops.iter_mut().find(|(known, _)| known.op == op.name()) {
                Some((known, sum)) => {
                    known.count += 1;
                    known.ns += ns;
                    *sum = *sum + work;
                    for kernel in served {
                        if !known.kernels.contains(&kernel) {
                            known.kernels.push(kernel);
                        }
                    }
                }
                None => {
                    let first = OpTime {
                        op: op.name(),
                        kernels: served,
                        count: 1,
                        ns: *ns,
                        share: 0.0,
                        bytes_per_second: 0.0,
                        flops_per_second: 0.0,
                    };
                    self.ops.push((first, work));
                }
            }
        }
        Ok(())
    }

    /// The ops, the longest first.
    pub fn profile(self) -> Profile {
        let total: u64 = self.ops.iter().map(|(op, _)| op.ns).sum();
        let mut profile: Profile = self
            .ops
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
        profile
    }
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
