//! How long each op of a plan takes on the device, by its time stamps.

use longwave_contract::BackendError;

use crate::BACKEND;
use crate::fault::refusal;
use crate::memory::{DeviceBuffer, Piece};
use crate::plan::Plan;
use crate::staging::{Staging, Transfer};
use crate::submission::Pace;

/// Ops of a submission at most: each has a pass and two stamps of its own.
const OPS: usize = 64;

/// Runs a plan that is bound, each op as a pass of its own, and returns their nanoseconds.
///
/// # Errors
/// [`BackendError::Unsupported`] where the device has no time stamps, and device errors.
pub(crate) fn profile(
    plan: &Plan,
    staging: &mut Staging,
    with: &mut Transfer<'_>,
) -> Result<Vec<u64>, BackendError> {
    let gpu = with.gpu;
    if !gpu
        .device
        .features()
        .contains(wgpu::Features::TIMESTAMP_QUERY)
    {
        return Err(BackendError::Unsupported {
            op: "profile",
            backend: BACKEND,
            why: "the device takes no time stamps".into(),
        });
    }
    let stamps = gpu.scoped(|device| {
        device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("time stamps"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * OPS as u32,
        })
    });
    let stamps = stamps.map_err(|error| refusal(&error, "time stamps", 0))?;
    let bytes = 16 * OPS as u64;
    let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
    let resolved = DeviceBuffer::new(gpu, with.account, "time stamps", bytes, usage, false)?;
    let period = f64::from(gpu.queue.get_timestamp_period());
    let mut times = Vec::with_capacity(plan.op_count());
    while times.len() < plan.op_count() {
        with.submissions.flush(gpu)?;
        let (mut count, mut seconds) = (0u32, 0.0);
        while (count as usize) < OPS && times.len() + (count as usize) < plan.op_count() {
            let writes = wgpu::ComputePassTimestampWrites {
                query_set: &stamps,
                beginning_of_pass_write_index: Some(2 * count),
                end_of_pass_write_index: Some(2 * count + 1),
            };
            let encoder = with.submissions.encoder(gpu);
            let more = plan.encode_op(times.len() + count as usize, encoder, writes)?;
            count += 1;
            with.submissions.add([more].into_iter());
            let took = with.submissions.pace().seconds(more);
            if Pace::is_full(seconds, took) {
                break;
            }
            seconds += took;
        }
        let encoder = with.submissions.encoder(gpu);
        encoder.resolve_query_set(&stamps, 0..2 * count, &resolved.raw, 0);
        let serial = with.submissions.flush(gpu)?;
        with.submissions.wait(gpu, serial)?;
        let mut read = vec![[0u64; 2]; count as usize];
        let piece = Piece {
            buffer: &resolved.raw,
            offset: 0,
            bytes: 16 * u64::from(count),
        };
        staging.read(with, &[piece], bytemuck::cast_slice_mut(&mut read))?;
        let took = |[begin, end]: &[u64; 2]| (end.saturating_sub(*begin) as f64 * period) as u64;
        times.extend(read.iter().map(took));
    }
    Ok(times)
}
