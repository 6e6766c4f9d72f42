//! `rope`: one workgroup a head of a row, or four where most rows may not count, once for each slab of the scratch rows that takes some.

use longwave_contract::BackendError;
use longwave_contract::op::{Rope, Tokens};

use super::latent::naming;
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
    let (naming, tokens_pitch) = naming(op.tokens);
    // Most rows that misses have room for do not count: fewer workgroups leave at once.
    let misses = matches!(op.tokens, Tokens::Missing(_));
    let each = if misses { 4u32.min(heads) } else { 1 };
    let parts = heads.div_ceil(each);
    let mut dispatches = Vec::new();
    for window in context.windows(op.kv) {
        // The rows whose slots lie in the window.
        let (mut begin, mut end) = (op.first, op.first + rows);
        if !misses {
            begin = window.first.max(begin);
            end = (window.first + window.rows).min(end);
        }
        if begin >= end {
            continue;
        }
        let size = end - begin;
        let grid = context.grid(name, u64::from(size) * u64::from(parts))?;
        let values = [
            ("rows", rows.into()),
            ("x_groups", grid[0].into()),
            ("begin", (begin - op.first).into()),
            ("size", size.into()),
            ("slot", begin.saturating_sub(window.first).into()),
            ("first_slot", window.first.into()),
            ("slots", window.rows.into()),
            ("each", each.into()),
            ("parts", parts.into()),
            ("pitch", op.pitch.into()),
            ("first", op.first.into()),
            ("naming", naming.into()),
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
                ("tokens", op.tokens.tensor().map_or(absent, Bound::Tensor)),
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
