//! `unpack`: a block a row, and no more than the device holds at once.

use longwave_contract::BackendError;
use longwave_contract::op::Unpack;

use super::latent::{latent_dispatch, naming, rule};
use super::{Context, Dispatch};

/// Blocks that a multiprocessor holds.
const RESIDENT: u32 = 5;

/// # Errors
/// None but defects.
pub(super) fn launch(op: &Unpack, context: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let rows = op.out.rows;
    let (naming, tokens_pitch) = naming(op.tokens);
    let given = [
        ("tokens", op.tokens.tensor().into()),
        ("stores", op.stores.into()),
        ("entries", op.entries.into()),
        ("count", op.count.into()),
        ("raw", op.raw.into()),
        ("mean", op.mean.into()),
        ("components", op.components.into()),
        ("latents", op.latents.into()),
        ("z", op.z.into()),
        ("out", op.out.into()),
        ("out_rows", rows.into()),
        ("first", op.first.into()),
        ("pitch", op.pitch.into()),
        ("tokens_pitch", tokens_pitch.into()),
        ("mean_rows", op.mean.rows.into()),
    ];
    let grid = rows.min(RESIDENT * context.processors).max(1);
    let variant = [("NAMING", naming), ("RULE", rule(&op.shape))];
    let unpack = latent_dispatch("unpack", &variant, &op.shape, &given, grid)?;
    Ok(vec![unpack])
}
