//! Plans: recordings with a kernel chosen for each op.

use std::time::Instant;

use longwave_contract::{BackendError, Op, Recording};

use crate::memory::Memory;
use crate::op;

/// How an op is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Rows, one by one.
    Gather,
    /// Weight rows are streamed past a few input rows.
    Row,
    /// Panels of weight rows times stacks of input rows.
    Gemm,
    /// Cache rows are streamed past a single query row.
    Stream,
    /// Tiles of the rows that share a view; a few rows of a view are streamed.
    Tile,
    /// Values are ranked.
    Rank,
}

impl Kernel {
    const fn name(self) -> &'static str {
        match self {
            Kernel::Gather => "gather",
            Kernel::Row => "row",
            Kernel::Gemm => "gemm",
            Kernel::Stream => "stream",
            Kernel::Tile => "tile",
            Kernel::Rank => "rank",
        }
    }
}

/// A recording that has been prepared.
pub(crate) struct Plan {
    steps: Vec<(Op, Kernel)>,
}

impl Plan {
    pub(crate) fn new(recording: &Recording) -> Self {
        let steps = recording.ops().iter();
        Plan {
            steps: steps.map(|op| (*op, op::select(op))).collect(),
        }
    }

    /// Each op as `op: kernel`.
    pub(crate) fn kernels(&self) -> Vec<String> {
        let steps = self.steps.iter();
        steps
            .map(|(op, kernel)| format!("{}: {}", op.name(), kernel.name()))
            .collect()
    }

    pub(crate) fn run(&self, memory: &mut Memory) -> Result<(), BackendError> {
        self.steps
            .iter()
            .try_for_each(|(op, kernel)| op::run(op, *kernel, memory))
    }

    /// Runs it and returns the nanoseconds that each op took.
    pub(crate) fn profile(&self, memory: &mut Memory) -> Result<Vec<u64>, BackendError> {
        let steps = self.steps.iter();
        let timed = steps.map(|(op, kernel)| {
            let start = Instant::now();
            op::run(op, *kernel, memory)?;
            Ok(start.elapsed().as_nanos() as u64)
        });
        timed.collect()
    }
}
