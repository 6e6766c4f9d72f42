//! `attend`, many queries together: a block for a split of the views of up to 128 queries that share a key head.

use longwave_contract::BackendError;
use longwave_contract::op::Attend;

use super::attend::{Costs, arguments, splits};
use super::{Context, Dispatch, dispatch, unsupported};

/// Elements of a head at most.
pub(super) const DIM_LIMIT: u32 = 256;
/// Blocks that a processor holds.
const HELD: u32 = 2;

/// What a block takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Elements of a head that there is room for.
    dim: u32,
    /// Queries.
    queries: u32,
    /// Numbers of f16 that make an element of a query, and a weight.
    parts: u32,
    /// Tokens at a time.
    keys: u32,
}

impl Shape {
    /// The smallest that takes heads of a size, at most [`DIM_LIMIT`]. As many queries as a block takes in two parts are no slower that way.
    fn of(head_dim: u32, queries: u64) -> Shape {
        let dims = [64, 96, 128, DIM_LIMIT];
        let dim = dims.into_iter().find(|dim| head_dim <= *dim);
        let dim = dim.unwrap_or(DIM_LIMIT);
        let parts = if queries <= 64 { 2 } else { 1 };
        Shape {
            dim,
            queries: if dim <= 128 && parts == 1 { 128 } else { 64 },
            parts,
            keys: if dim <= 128 { 64 } else { 32 },
        }
    }

    /// Bytes of the queries and of two tiles of keys and of values, each row with a chunk of 16 bytes to spare.
    fn shared(self) -> u32 {
        (self.parts * self.queries + 4 * self.keys) * (self.dim / 8 + 1) * 16
    }
}

/// # Errors
/// [`BackendError::Unsupported`] for grids that are too large.
pub(super) fn launch(op: &Attend, lone: bool, context: &Context) -> Result<Dispatch, BackendError> {
    let kv_heads = op.shape.kv_heads;
    let queries = u64::from(op.q.rows) * u64::from(op.heads() / kv_heads);
    let shape = Shape::of(op.shape.head_dim, queries);
    let tiles = queries.div_ceil(u64::from(shape.queries));
    // Splits write what they summed, and the last one reads it again: each about as long as a step takes.
    let costs = Costs {
        block: 2.0,
        merge: queries.min(u64::from(shape.queries)) as f64 / f64::from(shape.queries),
    };
    let splits = splits(
        tiles * u64::from(kv_heads),
        u64::from(context.processors * HELD),
        op.longest.div_ceil(shape.keys),
        &costs,
    );
    if queries > u64::from(u32::MAX - shape.queries) || kv_heads > 65535 {
        let why = format!("{queries} queries for each of {kv_heads} key heads");
        return Err(unsupported(Attend::NAME, why));
    }
    let (dim, parts) = (shape.dim.to_string(), shape.parts.to_string());
    let mut tile = dispatch(
        "attend_tile",
        &[("DIM", &dim), ("PARTS", &parts)],
        &arguments(op, splits, lone),
        [tiles as u32, kv_heads, splits],
    )?;
    tile.shared = shape.shared();
    Ok(tile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_holds_its_blocks() {
        for head_dim in (8..=DIM_LIMIT).step_by(8) {
            let many = Shape::of(head_dim, 1000);
            let few = Shape::of(head_dim, 64);
            assert!(many.dim >= head_dim && few.dim == many.dim);
            assert_eq!((many.parts, few.parts, few.queries), (1, 2, 64));
            assert!(HELD * (many.shared() + 3072) <= 228 << 10);
            assert!(few.shared() + 3072 <= 163 << 10);
        }
        assert_eq!(Shape::of(128, 1000).shared(), 104_448);
    }
}
