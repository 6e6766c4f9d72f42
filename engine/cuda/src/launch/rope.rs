//! `rope`: a few threads a head, and no more blocks than the device holds at once.

use longwave_contract::BackendError;
use longwave_contract::op::Rope;

use super::latent::naming;
use super::{Context, Dispatch, WARP, dispatch, threads, unsupported};

/// Elements of a head that the kernel has room for.
const HEAD_LIMIT: u32 = 256;
/// Blocks that a multiprocessor holds.
const RESIDENT: u32 = 12;

/// The value of the macro WIDTH, pairs of elements that a thread takes at a time, and threads of a head.
fn team(head_dim: u32) -> (&'static str, u32) {
    let (name, width) = if head_dim.is_multiple_of(8) {
        ("4", 4)
    } else {
        ("1", 1)
    };
    (name, (head_dim / 2 / width).next_power_of_two().min(WARP))
}

/// # Errors
/// [`BackendError::Unsupported`] for heads of more than 256 elements.
pub(super) fn launch(op: &Rope, context: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let (rows, head_dim) = (op.x.rows, op.shape.head_dim);
    if head_dim > HEAD_LIMIT {
        let why = format!("heads of {head_dim} elements");
        return Err(unsupported(Rope::NAME, why));
    }
    let heads = 2 * op.shape.kv_heads;
    let (naming, tokens_pitch) = naming(op.tokens);
    let (width, team) = team(head_dim);
    let blocks = (rows * heads).div_ceil(threads("rope") / team);
    let grid = blocks.min(RESIDENT * context.processors).max(1);
    let rope = dispatch(
        "rope",
        &[("NAMING", naming), ("WIDTH", width)],
        &[
            ("x", op.x.into()),
            ("tokens", op.tokens.tensor().into()),
            ("stores", op.stores.into()),
            ("count", op.count.into()),
            ("norm", op.k_norm.into()),
            ("table", op.rope.into()),
            ("kv", op.kv.into()),
            ("x_rows", rows.into()),
            ("first", op.first.into()),
            ("pitch", op.pitch.into()),
            ("tokens_pitch", tokens_pitch.into()),
            ("heads", heads.into()),
            ("head_dim", head_dim.into()),
            ("team", team.into()),
            ("table_rows", op.rope.rows.into()),
            ("x_pitch", op.x.cols.next_multiple_of(4).into()),
            ("rope_pitch", head_dim.next_multiple_of(4).into()),
            ("kv_pitch", ((op.shape.raw_bytes() / 2) as u32).into()),
            ("slots", op.kv.rows.into()),
            ("epsilon", op.epsilon.into()),
        ],
        [grid, 1, 1],
    )?;
    Ok(vec![rope])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_as_many_threads_as_it_has_work_for() {
        assert_eq!(team(64), ("4", 8));
        assert_eq!(team(128), ("4", 16));
        assert_eq!(team(96), ("4", 16));
        assert_eq!(team(256), ("4", 32));
        assert_eq!(team(34), ("1", 32));
        assert_eq!(team(250), ("1", 32));
        assert_eq!(team(2), ("1", 1));
    }
}
