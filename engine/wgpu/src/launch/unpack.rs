//! `unpack`: one workgroup a row.

use longwave_contract::BackendError;
use longwave_contract::op::Unpack;

use super::latent::{latent_params, naming};
use super::{Bound, Context, Dispatch, kernel};

/// # Errors
/// [`BackendError::Unsupported`] for too large a grid, and operands that exceed a binding.
pub(super) fn launch(op: &Unpack, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let (name, shape, rows) = (Unpack::NAME, op.shape, op.out.rows);
    let kernel = kernel("unpack", &[])?;
    let grid = context.grid(name, rows.into())?;
    let (naming, tokens_pitch) = naming(op.tokens);
    let given = [
        ("rows", rows.into()),
        ("x_groups", grid[0].into()),
        ("pitch", op.pitch.into()),
        ("first", op.first.into()),
        ("naming", naming.into()),
        ("tokens_pitch", tokens_pitch.into()),
        ("has_offset", u32::from(op.mean.rows == 2).into()),
        ("has_z", u32::from(op.z.is_some()).into()),
        ("z_pitch", shape.rank.next_multiple_of(4).into()),
    ];
    let whole = |operand, tensor| context.whole(name, operand, tensor);
    let z = match op.z {
        Some(z) => whole("z", z)?,
        // It is bound to be written, so it may not be an operand.
        None => context.scratch(name, 0, 16)?,
    };
    let dispatch = Dispatch {
        kernel,
        overrides: Vec::new(),
        params: latent_params(kernel, &shape, &given)?,
        bindings: vec![
            (
                "tokens",
                Bound::Tensor(op.tokens.tensor().unwrap_or(op.count)),
            ),
            ("stores", Bound::Tensor(op.stores)),
            ("entries", whole("entries", op.entries)?),
            ("count", Bound::Tensor(op.count)),
            ("raw", whole("raw", op.raw)?),
            ("mean", Bound::Tensor(op.mean)),
            ("components", Bound::Tensor(op.components)),
            ("latents", whole("latents", op.latents)?),
            ("z", z),
            ("out", whole("out", op.out)?),
        ],
        grid,
        work: u64::from(rows) * u64::from(4 * shape.cols + 4 * shape.rank),
    };
    Ok(vec![dispatch])
}
