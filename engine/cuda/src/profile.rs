//! How long each op of a plan takes on the device, by its time stamps.

use longwave_contract::BackendError;

use crate::driver::Gpu;
use crate::plan::Plan;

/// Runs a plan that is bound, with an event between its ops, and returns their nanoseconds. Kernels on the two sides of an event do not overlap.
///
/// # Errors
/// Device errors.
pub(crate) fn profile(plan: &Plan, gpu: &Gpu) -> Result<Vec<u64>, BackendError> {
    let events = (0..=plan.op_count()).map(|_| gpu.event(true));
    let events = events.collect::<Result<Vec<_>, _>>()?;
    let graph = plan.stamped(gpu, &events)?;
    gpu.run(plan.label(), &graph)?;
    gpu.finish()?;
    events
        .windows(2)
        .map(|pair| gpu.nanoseconds(&pair[0], &pair[1]))
        .collect()
}
