//! `qkv_rope_append`: the norm into scratch 0; q, k and v with their biases into scratch 1, 2 and 3; then head norms, rotary embedding and
//! the cache, once for each slab of the cache and of the staged rows, or once for both where neither was cut and heads have no norms. For one row,
//! one product makes q, k and v in scratch 1, and where nothing lies between, all of the op is one dispatch.

use longwave_contract::kv::KeySpace;
use longwave_contract::op::QkvRopeAppend;
use longwave_contract::{BackendError, Tensor};

use super::matmul::{self, Matmul};
use super::one_row;
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
    let absent = Bound::Tensor(op.count);
    let (mut dispatches, inputs) = match select(op, context) {
        Projection::Whole => return Ok(vec![whole(op, context)?]),
        Projection::One => one(op, context)?,
        Projection::Several => several(op, context)?,
    };
    let (heads, kv_heads) = (op.q.cols / head_dim, op.shape.kv_heads);
    let unroped = op.space == KeySpace::Unroped;
    let cached = context.windows(op.kv);
    let staged = op.staged.map(|staged| context.windows(staged));
    let mut staged = staged.unwrap_or_default();
    let norms = [("q_norm", op.q_norm), ("k_norm", op.k_norm)];
    // Two passes over all heads would take twice the time of one, most of which is that of starting workgroups.
    let twice = match (cached.len(), staged.len()) {
        (1, 1) if norms.iter().all(|(_, norm)| norm.is_none()) => staged.pop(),
        _ => None,
    };
    let rows_of = if twice.is_some() {
        "rows_twice"
    } else {
        "rows_once"
    };
    let kernel = kernel("qkv_rope_append", &[context.reduce(), rows_of])?;
    let staged_rows = twice.as_ref().map_or(0, |window| window.rows);
    let more = match twice {
        Some(window) => vec![("staged", window.bound)],
        None => norms
            .map(|(name, norm)| (name, norm.map_or(absent, Bound::Tensor)))
            .to_vec(),
    };
    let windows = cached
        .into_iter()
        .map(|window| (window, false))
        .chain(staged.into_iter().map(|window| (window, true)));
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
            ("staged_rows", staged_rows.into()),
            ("rope_rows", op.rope.rows.into()),
            ("q_pitch", op.q.cols.next_multiple_of(4).into()),
            ("kv_in_pitch", op.shape.width().next_multiple_of(4).into()),
            ("rope_pitch", head_dim.next_multiple_of(4).into()),
            ("kv_pitch", ((op.shape.raw_bytes() / 4) as u32).into()),
            ("k_first", inputs.k_first.into()),
            ("v_first", inputs.v_first.into()),
            ("first_slot", window.first.into()),
            ("slots", window.rows.into()),
            ("epsilon", op.epsilon.into()),
        ];
        let bindings = [
            ("q_in", inputs.q),
            ("k_in", inputs.k),
            ("v_in", inputs.v),
            ("rope", context.whole(name, "rope", op.rope)?),
            ("rows", Bound::Tensor(op.rows)),
            ("count", Bound::Tensor(op.count)),
            ("q_out", context.whole(name, "q", op.q)?),
            ("kv", window.bound),
        ];
        dispatches.push(Dispatch {
            kernel,
            overrides: Vec::new(),
            params: params(kernel, &values)?,
            bindings: bindings.iter().chain(&more).copied().collect(),
            grid,
            work: u64::from(rows) * u64::from(grid[0]) * u64::from(head_dim),
        });
    }
    Ok(dispatches)
}

/// How q, k and v are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Projection {
    /// In one dispatch, which embeds and stores them too.
    Whole,
    /// In one dispatch.
    One,
    /// In three.
    Several,
}

/// One row takes one dispatch where its weights are alike; all of the op, where nothing lies between the products and the embedding, and the
/// cache lies in one piece.
fn select(op: &QkvRopeAppend, context: &Context<'_>) -> Projection {
    let weights = [op.w_q, op.w_k, op.w_v];
    let one = one_row::serves(op.x.rows, op.x.cols, context)
        && op.x.cols.is_multiple_of(matmul::STEP)
        && one_row::share(&weights, context);
    let between = [op.b_q, op.b_k, op.b_v, op.q_norm, op.k_norm];
    let whole = between.iter().all(Option::is_none)
        && op.staged.is_none()
        && op.shape.head_dim.is_multiple_of(4)
        && context.windows(op.kv).len() == 1;
    match (one, whole) {
        (true, true) => Projection::Whole,
        (true, false) => Projection::One,
        (false, _) => Projection::Several,
    }
}

/// Where q, k and v lie before their rotary embedding: buffers, and the first elements of k and of v in theirs.
struct Inputs {
    q: Bound,
    k: Bound,
    v: Bound,
    k_first: u32,
    v_first: u32,
}

/// The norm, and a product for each of q, k and v.
fn several(
    op: &QkvRopeAppend,
    context: &Context<'_>,
) -> Result<(Vec<Dispatch>, Inputs), BackendError> {
    let (name, rows) = (QkvRopeAppend::NAME, op.x.rows);
    let input = matmul::input(rows, &[op.w_q, op.w_k, op.w_v], context);
    let norm = RmsNorm {
        op: name,
        x: op.x,
        select: None,
        norm: op.norm,
        epsilon: op.epsilon,
        count: op.count,
        rows,
        input,
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
            input,
            bias,
            count: op.count,
            y,
            rows,
            add: false,
        };
        dispatches.extend(matmul::launch(&matmul, context)?);
        Ok::<_, BackendError>(y)
    };
    let q = project(op.w_q, op.b_q, 1)?;
    let k = project(op.w_k, op.b_k, 2)?;
    let v = project(op.w_v, op.b_v, 3)?;
    let inputs = Inputs {
        q,
        k,
        v,
        k_first: 0,
        v_first: 0,
    };
    Ok((dispatches, inputs))
}

/// One product for q, k and v of one row.
fn one(op: &QkvRopeAppend, context: &Context<'_>) -> Result<(Vec<Dispatch>, Inputs), BackendError> {
    let name = QkvRopeAppend::NAME;
    let (q_outputs, kv_outputs) = (op.w_q.rows, op.w_k.rows);
    let (kernel, teams) = one_row::kernel_of("qkv_rope_append_one", op.w_q.dtype, &[], context)?;
    let outputs = one_row::select(op.w_q.dtype, q_outputs);
    let groups = |outputs_of: u32| outputs_of.div_ceil(outputs * teams);
    let (q_groups, kv_groups) = (groups(q_outputs), groups(kv_outputs));
    let grid = [q_groups + 2 * kv_groups, 1, 1];
    if grid[0] > context.caps.workgroups_per_axis {
        return Err(unsupported(name, format!("a grid of {grid:?} workgroups")));
    }
    let k_first = q_outputs.next_multiple_of(4);
    let v_first = k_first + kv_outputs.next_multiple_of(4);
    let y = context.scratch(
        name,
        1,
        4 * u64::from(v_first + kv_outputs.next_multiple_of(4)),
    )?;
    let absent = Bound::Tensor(op.count);
    let mut values = one_row::weight_words(op.w_q).to_vec();
    let mut bindings = vec![
        ("weight0", context.whole(name, "w_q", op.w_q)?),
        ("weight1", context.whole(name, "w_k", op.w_k)?),
        ("weight2", context.whole(name, "w_v", op.w_v)?),
        ("a", context.whole(name, "x", op.x)?),
        ("y", y),
        ("norm", Bound::Tensor(op.norm)),
    ];
    let mut biases = 0u32;
    for (index, (binding, bias)) in [("bias0", op.b_q), ("bias1", op.b_k), ("bias2", op.b_v)]
        .into_iter()
        .enumerate()
    {
        biases |= u32::from(bias.is_some()) << index;
        bindings.push((binding, bias.map_or(absent, Bound::Tensor)));
    }
    values.extend([
        ("q_outputs", q_outputs.into()),
        ("kv_outputs", kv_outputs.into()),
        ("k_first", k_first.into()),
        ("v_first", v_first.into()),
        ("q_groups", q_groups.into()),
        ("kv_groups", kv_groups.into()),
        ("teams", teams.into()),
        ("biases", biases.into()),
        ("epsilon", op.epsilon.into()),
    ]);
    let dispatch = Dispatch {
        kernel,
        overrides: vec![
            ("OUTPUTS", f64::from(outputs)),
            ("UNROLL", f64::from(one_row::unroll(op.w_q.dtype, outputs))),
        ],
        params: params(kernel, &values)?,
        bindings,
        grid,
        work: u64::from(q_outputs + 2 * kv_outputs) * u64::from(op.w_q.cols),
    };
    let inputs = Inputs {
        q: y,
        k: y,
        v: y,
        k_first,
        v_first,
    };
    Ok((vec![dispatch], inputs))
}

/// All of the op for one row.
fn whole(op: &QkvRopeAppend, context: &Context<'_>) -> Result<Dispatch, BackendError> {
    let name = QkvRopeAppend::NAME;
    let (q_outputs, kv_outputs) = (op.w_q.rows, op.w_k.rows);
    let (kernel, teams) = one_row::kernel_of("qkv_rope_append_whole", op.w_q.dtype, &[], context)?;
    let groups = |outputs: u32| outputs.div_ceil(4 * teams);
    let (q_groups, kv_groups) = (groups(q_outputs), groups(kv_outputs));
    let grid = [q_groups + 2 * kv_groups, 1, 1];
    if grid[0] > context.caps.workgroups_per_axis {
        return Err(unsupported(name, format!("a grid of {grid:?} workgroups")));
    }
    let head_dim = op.shape.head_dim;
    let mut values = one_row::weight_words(op.w_q).to_vec();
    values.extend([
        ("head_dim", head_dim.into()),
        ("q_outputs", q_outputs.into()),
        ("kv_outputs", kv_outputs.into()),
        ("q_groups", q_groups.into()),
        ("kv_groups", kv_groups.into()),
        ("teams", teams.into()),
        ("unroped", u32::from(op.space == KeySpace::Unroped).into()),
        ("rope_rows", op.rope.rows.into()),
        ("rope_pitch", head_dim.into()),
        ("kv_pitch", ((op.shape.raw_bytes() / 4) as u32).into()),
        ("slots", op.kv.rows.into()),
        ("epsilon", op.epsilon.into()),
    ]);
    Ok(Dispatch {
        kernel,
        overrides: vec![("UNROLL", f64::from(one_row::unroll(op.w_q.dtype, 4)))],
        params: params(kernel, &values)?,
        bindings: vec![
            ("weight0", context.whole(name, "w_q", op.w_q)?),
            ("weight1", context.whole(name, "w_k", op.w_k)?),
            ("weight2", context.whole(name, "w_v", op.w_v)?),
            ("a", context.whole(name, "x", op.x)?),
            ("norm", Bound::Tensor(op.norm)),
            ("rope", context.whole(name, "rope", op.rope)?),
            ("rows", Bound::Tensor(op.rows)),
            ("count", Bound::Tensor(op.count)),
            ("q_out", context.whole(name, "q", op.q)?),
            ("kv", context.whole(name, "kv", op.kv)?),
        ],
        grid,
        work: u64::from(q_outputs + 2 * kv_outputs) * u64::from(op.w_q.cols),
    })
}
