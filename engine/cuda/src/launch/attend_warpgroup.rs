//! `attend`, many queries together on devices of compute capability 9.0: a block for the whole views of 128 queries that share a key head.

use longwave_contract::BackendError;
use longwave_contract::op::Attend;

use super::attend::arguments;
use super::{Context, Dispatch, dispatch, unsupported};

/// Queries of a block.
const QUERIES: u64 = 128;
/// Tokens at a time.
const KEYS: u32 = 128;
/// Steps under way, of keys and of values.
const STAGES: u32 = 2;
/// The compute capability, times ten, whose tensor cores these kernels know.
const CAPABILITY: u32 = 90;

/// Whether these kernels take the op's heads on this device.
pub(super) fn serves(op: &Attend, context: &Context) -> bool {
    context.capability == CAPABILITY && matches!(op.shape.head_dim, 64 | 128)
}

/// Whether there are enough rows for most of the device: views are not split.
pub(super) fn fills(op: &Attend, context: &Context) -> bool {
    4 * tiles(op) * u64::from(op.shape.kv_heads) >= 3 * u64::from(context.processors)
}

fn tiles(op: &Attend) -> u64 {
    let group = op.heads() / op.shape.kv_heads;
    (u64::from(op.q.rows) * u64::from(group)).div_ceil(QUERIES)
}

/// Bytes of the queries and of the stages, and what aligns them.
fn shared(head_dim: u32) -> u32 {
    (QUERIES as u32 + 2 * STAGES * KEYS) * head_dim * 2 + 1024
}

/// # Errors
/// [`BackendError::Unsupported`] for grids that are too large.
pub(super) fn launch(op: &Attend, lone: bool) -> Result<Dispatch, BackendError> {
    let (tiles, kv_heads, head_dim) = (tiles(op), op.shape.kv_heads, op.shape.head_dim);
    if tiles * QUERIES > u64::from(u32::MAX) || kv_heads > 65535 {
        let why = format!("{tiles} tiles of queries for each of {kv_heads} key heads");
        return Err(unsupported(Attend::NAME, why));
    }
    let mut arguments = arguments(op, 1, lone);
    arguments.retain(|(name, _)| !matches!(*name, "sums" | "stats" | "splits" | "octets"));
    let mut warpgroup = dispatch(
        "attend_warpgroup",
        &[("DIM", &head_dim.to_string())],
        &arguments,
        [tiles as u32, kv_heads, 1],
    )?;
    warpgroup.shared = shared(head_dim);
    Ok(warpgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_holds_a_block() {
        assert_eq!(shared(128), 164_864);
        assert!(shared(64) + 2048 <= 227 << 10);
    }
}
