//! `rope`: one workgroup a head of a row, once for each slab of the scratch rows that takes some.

use longwave_contract::BackendError;
use longwave_contract::op::Rope;

use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// Elements of a head that the kernel has room for.
const HEAD_LIMIT: u32 = 256;

/// # Errors
/// [`BackendError::Unsupported`] for heads of more than 256 elements, too large a grid, and operands that exceed a binding.
pub(super) fn launch(op: &Rope, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let (name, rows, head_dim) = (Rope::NAME, op.x.rows, op.shape.head_dim);
    if head_dim > HEAD_LIMIT {
        return Err(unsupported(name, format!("heads of {head_dim} elements")));
    }
    let heads = 2 * op.shape.kv_heads;
    let kernel = kernel("rope", &[context.reduce()])?;
    let absent = Bound::Tensor(op.count);
    let tokens_pitch = op
        .tokens
        .map_or(0, |tokens| tokens.cols.next_multiple_of(4));
    let mut dispatches = Vec::new();
    for window in context.windows(op.kv) {
        // The rows whose slots lie in the window.
        let begin = window.first.max(op.first);
        let end = (window.first + window.rows).min(op.first + rows);
        if begin >= end {
            continue;
        }
        let size = end - begin;
        let grid = context.grid(name, u64::from(size) * u64::from(heads))?;
        let values = [
            ("rows", rows.into()),
            ("x_groups", grid[0].into()),
            ("begin", (begin - op.first).into()),
            ("size", size.into()),
            ("slot", (begin - window.first).into()),
            ("pitch", op.pitch.into()),
            ("first", op.first.into()),
            ("has_tokens", u32::from(op.tokens.is_some()).into()),
            ("tokens_pitch", tokens_pitch.into()),
            ("has_norm", u32::from(op.k_norm.is_some()).into()),
            ("heads", heads.into()),
            ("head_dim", head_dim.into()),
            ("rope_rows", op.rope.rows.into()),
            ("x_pitch", op.x.cols.next_multiple_of(4).into()),
            ("rope_pitch", head_dim.next_multiple_of(4).into()),
            ("kv_pitch", ((op.shape.raw_bytes() / 4) as u32).into()),
            ("epsilon", op.epsilon.into()),
        ];
        dispatches.push(Dispatch {
            kernel,
            overrides: Vec::new(),
            params: params(kernel, &values)?,
            bindings: vec![
                ("x", context.whole(name, "x", op.x)?),
                ("tokens", op.tokens.map_or(absent, Bound::Tensor)),
                ("stores", Bound::Tensor(op.stores)),
                ("count", Bound::Tensor(op.count)),
                ("norm", op.k_norm.map_or(absent, Bound::Tensor)),
                ("rope", context.whole(name, "rope", op.rope)?),
                ("kv", window.bound),
            ],
            grid,
            work: u64::from(size) * u64::from(op.x.cols),
        });
    }
    Ok(dispatches)
}
