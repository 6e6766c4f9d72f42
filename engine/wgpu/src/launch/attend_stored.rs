//! `attend_stored`: splits of the tokens that each row sees, as they are stored, into scratch 0, and then their merge. A single split goes to the
//! output at once.

use longwave_contract::BackendError;
use longwave_contract::op::AttendStored;

use super::attend::{BLOCK, Merge, WORK_LIMIT};
use super::attend_row::cut;
use super::{Bound, Context, Dispatch, Force, kernel, params, unsupported};

/// Elements of a head that a thread takes.
const ELEMENTS: u32 = 8;
/// Elements of heads that there may be kernels for: those of 4 to 32 threads.
static HEADS: [u32; 4] = [32, 64, 128, 256];
/// Threads of a workgroup: no subgroup may be larger.
const THREADS: u32 = 128;

/// Elements of the heads that the kernel serves on a device with subgroups of such sizes: those whose threads every subgroup holds.
pub(crate) fn heads(subgroup: Option<(u32, u32)>, force: Force) -> &'static [u32] {
    match subgroup {
        Some((least, most)) if most <= THREADS && !force.no_subgroup => {
            let held = HEADS.partition_point(|dim| dim / ELEMENTS <= least);
            &HEADS[..held]
        }
        _ => &[],
    }
}

/// # Errors
/// [`BackendError::Unsupported`] for heads that are not among [`heads`], norms of keys, too large a grid, and operands that exceed a binding.
pub(super) fn launch(
    op: &AttendStored,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let name = AttendStored::NAME;
    let head_dim = op.shape.head_dim;
    if !heads(context.caps.subgroup, context.force).contains(&head_dim) {
        return Err(unsupported(name, format!("heads of {head_dim} elements")));
    }
    if op.k_norm.is_some() {
        return Err(unsupported(name, "keys with a norm"));
    }
    let (rows, lanes) = (op.q.rows, head_dim / ELEMENTS);
    let heads = op.q.cols / head_dim;
    let group = heads / op.shape.kv_heads;
    let of_row = op.shape.kv_heads * group.div_ceil(BLOCK);
    // Behind the sums of a head lie its maximum and its sum of weights, which take 16 bytes.
    let a_split = u64::from(rows) * u64::from(heads) * (u64::from(head_dim) * 4 + 16);
    let room = context.caps.slab_limit / a_split.max(1);
    let cut = cut(rows * of_row, lanes, op.longest, room);
    let grid = [of_row, cut.splits, rows];
    if grid
        .iter()
        .any(|&groups| groups > context.caps.workgroups_per_axis)
    {
        return Err(unsupported(name, format!("a grid of {grid:?} workgroups")));
    }
    let single = cut.splits == 1;
    let whole = |operand, tensor| context.whole(name, operand, tensor);
    let out = whole("out", op.out)?;
    let sums = match single {
        true => out,
        false => context.scratch(name, 0, u64::from(cut.splits) * a_split)?,
    };
    let kernel = kernel("attend_stored", &[])?;
    let a_row = 2 * u64::from(op.q.cols) * u64::from(op.longest);
    let at_once = (WORK_LIMIT / a_row.max(1)).clamp(1, u64::from(rows)) as u32;
    let mut dispatches = Vec::new();
    for first_row in (0..rows).step_by(at_once as usize) {
        let now = at_once.min(rows - first_row);
        let values = [
            ("rows", rows.into()),
            ("first_row", first_row.into()),
            ("heads", heads.into()),
            ("group", group.into()),
            ("blocks", group.div_ceil(BLOCK).into()),
            ("split_tokens", cut.tokens.into()),
            ("splits", cut.splits.into()),
            ("width", (op.shape.width() / 4).into()),
            ("pitch", (op.shape.cols() / 4).into()),
            ("words", op.latent.words().into()),
            ("code_words", op.latent.code_words().into()),
            ("codes_at", op.latent.codes_at().into()),
            ("scales", op.latent.scales().into()),
            ("scales_at", op.latent.scales_at().into()),
            ("rope_pitch", (head_dim / 4).into()),
            ("rope_rows", op.rope.rows.into()),
            ("finish", u32::from(single).into()),
            ("sum_pitch", (head_dim / 4 + u32::from(!single)).into()),
            ("scale", op.scale.into()),
        ];
        dispatches.push(Dispatch {
            kernel,
            overrides: vec![("LANES", f64::from(lanes)), ("BITS", f64::from(op.bits()))],
            params: params(kernel, &values)?,
            bindings: vec![
                ("q", whole("q", op.q)?),
                ("rows", Bound::Tensor(op.rows)),
                ("count", Bound::Tensor(op.count)),
                ("stores", Bound::Tensor(op.stores)),
                ("entries", whole("entries", op.entries)?),
                ("raw", whole("raw", op.raw)?),
                ("mean", Bound::Tensor(op.mean)),
                ("latents", whole("latents", op.latents)?),
                ("rope", whole("rope", op.rope)?),
                ("sums", sums),
            ],
            grid: [grid[0], grid[1], now],
            work: u64::from(now) * a_row,
        });
    }
    if !single {
        let merge = Merge {
            rows: op.rows,
            count: op.count,
            seen: ("splits_of_stores", "stores", op.stores),
            sums,
            stats: None,
            heads,
            head_dim,
            out,
        };
        dispatches.push(merge.launch(cut, context)?);
    }
    Ok(dispatches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_those_that_subgroups_hold() {
        let of = |subgroup| heads(subgroup, Force::default());
        assert_eq!(of(Some((8, 8))), [32, 64]);
        assert_eq!(of(Some((16, 32))), [32, 64, 128]);
        assert_eq!(of(Some((32, 64))), HEADS);
        assert_eq!(of(Some((32, 256))), [0; 0]);
        assert_eq!(of(None), [0; 0]);
    }
}
