//! `pack`: scales, codes and errors of all tokens, the latter into scratch 0; then each block's escapes.

use longwave_contract::BackendError;
use longwave_contract::kv::{BLOCK, ScaleRule};
use longwave_contract::op::Pack;

use super::latent::latent_params;
use super::{Bound, Context, Dispatch, kernel, unsupported};

/// Words of a token's codes that a workgroup has room for.
const CODE_WORDS: u32 = 2048;
/// Groups of a token's latents that it has room for.
const GROUPS: u32 = 512;

/// Tokens of a workgroup, the most first.
const TOKENS: [u32; 2] = [4, 2];

/// Tokens of so many words of codes and groups that a workgroup takes at once: the most that it has room for, since they share what it reads and
/// its waits.
fn tokens(code_words: u32, groups: u32) -> u32 {
    let fits = |tokens: &u32| code_words <= CODE_WORDS / tokens && groups <= GROUPS / tokens;
    TOKENS.into_iter().find(fits).unwrap_or(1)
}

/// Elements of escapes that a workgroup writes at a time.
const ESCAPED: u32 = 512;
/// Workgroups that share a block's escapes at most.
const ESCAPERS: u32 = 8;

/// # Errors
/// [`BackendError::Unsupported`] for more than 65536 bits or 512 groups of a token, for more blocks than a grid has workgroups, and for
/// operands that exceed a binding.
pub(super) fn launch(op: &Pack, context: &Context<'_>) -> Result<Vec<Dispatch>, BackendError> {
    let (name, shape) = (Pack::NAME, op.shape);
    let (blocks, groups) = (op.blocks.rows, shape.rank.div_ceil(shape.group));
    let has_groups = matches!(shape.rule, ScaleRule::Symmetric | ScaleRule::MinMax);
    if shape.code_words() > CODE_WORDS || (has_groups && groups > GROUPS) {
        let bits = shape.code_bits;
        let why = format!("tokens of {bits} bits in {groups} groups");
        return Err(unsupported(name, why));
    }
    if blocks > context.caps.workgroups_per_axis {
        return Err(unsupported(name, format!("{blocks} blocks")));
    }
    let rows = u64::from(blocks) * u64::from(BLOCK);
    let whole =
        |operand, tensor| Ok::<_, BackendError>((operand, context.whole(name, operand, tensor)?));
    let shared = [
        ("outcomes", context.scratch(name, 0, rows * 16)?),
        ("blocks", Bound::Tensor(op.blocks)),
        ("count", Bound::Tensor(op.count)),
        whole("entries", op.entries)?,
        whole("latents", op.latents)?,
    ];
    let codes = kernel("pack_codes", &[])?;
    let tokens = tokens(shape.code_words(), if has_groups { groups } else { 1 });
    let grid = context.grid(name, rows / u64::from(tokens))?;
    let given = [
        ("blocks", blocks.into()),
        ("x_groups", grid[0].into()),
        ("z_pitch", shape.rank.next_multiple_of(4).into()),
    ];
    let more = [
        whole("z", op.z)?,
        whole("residual", op.residual)?,
        ("metric", Bound::Tensor(op.metric)),
        ("components", Bound::Tensor(op.components)),
        ("energy", Bound::Tensor(op.energy)),
    ];
    let codes = Dispatch {
        kernel: codes,
        overrides: vec![("TOKENS", f64::from(tokens))],
        params: latent_params(codes, &shape, &given)?,
        bindings: [&shared[..], &more[..]].concat(),
        grid,
        work: 32 * rows * u64::from(shape.rank + shape.cols),
    };
    let escapes = kernel("pack_escapes", &[])?;
    let gains = u32::from(shape.rule == ScaleRule::Gain);
    let parts = shape.escapes * shape.cols.div_ceil(ESCAPED);
    let y_groups = parts.clamp(1, ESCAPERS);
    let given = [
        ("blocks", blocks.into()),
        ("y_groups", y_groups.into()),
        ("gains", gains.into()),
    ];
    let more = [
        whole("staged", op.staged)?,
        ("mean", Bound::Tensor(op.mean)),
    ];
    let escapes = Dispatch {
        kernel: escapes,
        overrides: Vec::new(),
        params: latent_params(escapes, &shape, &given)?,
        bindings: [&shared[..], &more[..]].concat(),
        grid: [blocks, y_groups, 1],
        work: u64::from(blocks) * u64::from(BLOCK * BLOCK + shape.escapes * shape.cols),
    };
    Ok(vec![codes, escapes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_share_a_workgroup_that_has_room_for_them() {
        assert_eq!(tokens(48, 1), 4);
        assert_eq!(tokens(512, 128), 4);
        assert_eq!(tokens(513, 1), 2);
        assert_eq!(tokens(512, 129), 2);
        assert_eq!(tokens(2048, 1), 1);
    }
}
