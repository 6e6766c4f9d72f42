//! `qkv_rope_append`: the norm into scratch 0; q, k and v with their biases into scratch 1, 2 and 3; then head norms, rotary embedding and
//! the cache, once for each slab of the cache and of the staged rows.

use longwave_contract::kv::KeySpace;
use longwave_contract::op::QkvRopeAppend;
use longwave_contract::{BackendError, Tensor};

use super::matmul::{self, Matmul};
use super::rms_norm::{self, RmsNorm};
use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// Elements of a head that the kernel has room for.
const HEAD_LIMIT: u32 = 256;

/// # Errors
/// As the norm and the matrix products; [`BackendError::Unsupported`] for heads of more than 256 elements.
pub(super) fn launch(
    op: &QkvRopeAppend,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let name = QkvRopeAppend::NAME;
    let (rows, head_dim) = (op.x.rows, op.shape.head_dim);
    if head_dim > HEAD_LIMIT {
        return Err(unsupported(name, format!("heads of {head_dim} elements")));
    }
    if rows > context.caps.workgroups_per_axis {
        return Err(unsupported(name, format!("{rows} rows")));
    }
    let norm = RmsNorm {
        op: name,
        x: op.x,
        select: None,
        norm: op.norm,
        epsilon: op.epsilon,
        count: op.count,
        rows,
        scratch: 0,
    };
    let (normalise, a) = rms_norm::launch(&norm, context)?;
    let mut dispatches = vec![normalise];
    let mut project = |weight: Tensor, bias: Option<Tensor>, index: usize| {
        let pitch = u64::from(weight.rows.next_multiple_of(4)) * 4;
        let y = context.scratch(name, index, u64::from(rows) * pitch)?;
        let matmul = Matmul {
            op: name,
            weight,
            a,
            bias,
            count: op.count,
            y,
            rows,
            add: false,
        };
        dispatches.extend(matmul::launch(&matmul, context)?);
        Ok::<_, BackendError>(y)
    };
    let q_in = project(op.w_q, op.b_q, 1)?;
    let k_in = project(op.w_k, op.b_k, 2)?;
    let v_in = project(op.w_v, op.b_v, 3)?;
    let absent = Bound::Tensor(op.count);
    let kernel = kernel("qkv_rope_append", &[context.reduce()])?;
    let (heads, kv_heads) = (op.q.cols / head_dim, op.shape.kv_heads);
    let unroped = op.space == KeySpace::Unroped;
    let cached = context.windows(op.kv).into_iter();
    let staged = op.staged.map(|staged| context.windows(staged));
    let staged = staged.into_iter().flatten();
    let windows = cached
        .map(|window| (window, false))
        .chain(staged.map(|window| (window, true)));
    for (index, (window, staged)) in windows.enumerate() {
        // Queries are written once, with the first slab.
        let first_head = if index == 0 { 0 } else { heads };
        let grid = [heads + 2 * kv_heads - first_head, rows, 1];
        let values = [
            ("rows", rows.into()),
            ("heads", heads.into()),
            ("kv_heads", kv_heads.into()),
            ("head_dim", head_dim.into()),
            ("first_head", first_head.into()),
            ("has_q_norm", u32::from(op.q_norm.is_some()).into()),
            ("has_k_norm", u32::from(op.k_norm.is_some()).into()),
            ("unroped", u32::from(unroped || staged).into()),
            ("staged", u32::from(staged).into()),
            ("rope_rows", op.rope.rows.into()),
            ("q_pitch", op.q.cols.next_multiple_of(4).into()),
            ("kv_in_pitch", op.shape.width().next_multiple_of(4).into()),
            ("rope_pitch", head_dim.next_multiple_of(4).into()),
            ("kv_pitch", ((op.shape.raw_bytes() / 4) as u32).into()),
            ("first_slot", window.first.into()),
            ("slots", window.rows.into()),
            ("epsilon", op.epsilon.into()),
        ];
        dispatches.push(Dispatch {
            kernel,
            overrides: Vec::new(),
            params: params(kernel, &values)?,
            bindings: vec![
                ("q_in", q_in),
                ("k_in", k_in),
                ("v_in", v_in),
                ("q_norm", op.q_norm.map_or(absent, Bound::Tensor)),
                ("k_norm", op.k_norm.map_or(absent, Bound::Tensor)),
                ("rope", context.whole(name, "rope", op.rope)?),
                ("rows", Bound::Tensor(op.rows)),
                ("count", Bound::Tensor(op.count)),
                ("q_out", context.whole(name, "q", op.q)?),
                ("kv", window.bound),
            ],
            grid,
            work: u64::from(rows) * u64::from(grid[0]) * u64::from(head_dim),
        });
    }
    Ok(dispatches)
}
