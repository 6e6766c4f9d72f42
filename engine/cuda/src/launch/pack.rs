//! `pack`: scales, codes and errors of all tokens, the latter into scratch; then each block's escapes.

use longwave_contract::BackendError;
use longwave_contract::kv::{BLOCK, LatentShape};
use longwave_contract::op::Pack;

use super::latent::{has_groups, latent_dispatch, rule};
use super::{Argument, Context, Dispatch, WARP, threads, unsupported};

/// Bytes of shared memory that every device gives a block.
const SHARED: u32 = 96 << 10;

/// Words of shared memory of a warp: codes, and scale and minimum of each group.
fn room(shape: &LatentShape) -> u32 {
    let groups = if has_groups(shape) {
        shape.rank.div_ceil(shape.group)
    } else {
        0
    };
    shape.code_words().next_multiple_of(2) + 2 * groups
}

/// Elements of escapes that a block writes at a time.
const ESCAPED: u32 = 512;
/// Blocks that share the escapes of a latent block at most.
const ESCAPERS: u32 = 8;

/// # Errors
/// [`BackendError::Unsupported`] for tokens whose codes and scales exceed shared memory.
pub(super) fn launch(op: &Pack, _: &Context) -> Result<Vec<Dispatch>, BackendError> {
    let (shape, blocks) = (op.shape, op.blocks.rows);
    let (tokens, room) = (blocks * BLOCK, room(&shape));
    // A warp takes a token.
    let warps = threads("pack_codes") / WARP;
    let shared = 4 * warps * room;
    if shared > SHARED {
        let why = format!(
            "tokens of {} bits in {} scales",
            shape.code_bits,
            shape.scales()
        );
        return Err(unsupported(Pack::NAME, why));
    }
    let sources = [
        (
            "errors",
            Argument::Scratch {
                index: 0,
                bytes: u64::from(tokens) * 8,
            },
        ),
        ("blocks", op.blocks.into()),
        ("count", op.count.into()),
        ("entries", op.entries.into()),
        ("latents", op.latents.into()),
        ("capacity", blocks.into()),
    ];
    let more = [
        ("z", op.z.into()),
        ("residual", op.residual.into()),
        ("metric", op.metric.into()),
        ("components", op.components.into()),
        ("energy", op.energy.into()),
        ("z_pitch", shape.rank.next_multiple_of(4).into()),
        ("room", room.into()),
    ];
    let mut codes = latent_dispatch(
        "pack_codes",
        &[("RULE", rule(&shape))],
        &shape,
        &[&sources[..], &more].concat(),
        tokens.div_ceil(warps),
    )?;
    codes.shared = shared;
    let more = [("staged", op.staged.into()), ("mean", op.mean.into())];
    let mut escapes = latent_dispatch(
        "pack_escapes",
        &[],
        &shape,
        &[&sources[..], &more].concat(),
        blocks,
    )?;
    escapes.grid[1] = (shape.escapes * shape.cols.div_ceil(ESCAPED)).clamp(1, ESCAPERS);
    Ok(vec![codes, escapes])
}

#[cfg(test)]
mod tests {
    use longwave_contract::kv::ScaleRule;

    use super::*;

    #[test]
    fn a_warp_has_room_for_codes_and_scales() {
        let shape = LatentShape {
            cols: 1024,
            rank: 1000,
            code_bits: 4000,
            group: 32,
            rule: ScaleRule::MinMax,
            references: None,
            exact_f16: false,
            escapes: 0,
        };
        assert_eq!(room(&shape), 126 + 2 * 32);
        let plain = LatentShape {
            rule: ScaleRule::Plain,
            ..shape
        };
        assert_eq!(room(&plain), 126);
    }
}
