//! `qkv_rope_append`: the norm into scratch 0; q, k and v with their biases into scratch 1, 2 and 3; then head norms, rotary embedding, the cache
//! and the staged rows. For one row, one launch makes the products, and all of the op where there are no head norms.

use longwave_contract::kv::KeySpace;
use longwave_contract::op::QkvRopeAppend;
use longwave_contract::{BackendError, Tensor};

use super::matmul::{self, Matmul, Product};
use super::rms_norm::{self, RmsNorm};
use super::{
    Argument, Context, Dispatch, Launch, MatmulKernel, WARP, dispatch, few_rows, one_row, threads,
    unsupported,
};

/// Elements of a head that the kernel has room for.
const HEAD_LIMIT: u32 = 256;

/// # Errors
/// As the matrix products; [`BackendError::Unsupported`] for heads of more than 256 elements.
pub(super) fn launch(op: &QkvRopeAppend, context: &Context) -> Result<Vec<Launch>, BackendError> {
    let chosen = context.force.matmul.is_none();
    if chosen && one_row::qkv_serves(op) {
        let whole = one_row::qkv_rope_append(op, context)?;
        return Ok(whole.into_iter().map(Launch::from).collect());
    }
    let head_dim = op.shape.head_dim;
    if head_dim > HEAD_LIMIT {
        let why = format!("heads of {head_dim} elements");
        return Err(unsupported(QkvRopeAppend::NAME, why));
    }
    let output = |weight: Tensor, index| {
        let row_bytes = 4 * u64::from(weight.rows.next_multiple_of(4));
        let bytes = u64::from(op.x.rows) * row_bytes;
        Argument::Scratch { index, bytes }
    };
    let outputs = [output(op.w_q, 1), output(op.w_k, 2), output(op.w_v, 3)];
    let (mut launches, with_biases) = match chosen && one_row::qkv_products_serves(op) {
        true => {
            let products = one_row::qkv_products(op, outputs, context)?;
            (vec![products.into()], true)
        }
        false => several(op, outputs, context)?,
    };
    launches.push(append(op, outputs, with_biases)?.into());
    Ok(launches)
}

/// The norm, and the products into `outputs`; and whether those have their biases.
fn several(
    op: &QkvRopeAppend,
    outputs: [Argument; 3],
    context: &Context,
) -> Result<(Vec<Launch>, bool), BackendError> {
    let rows = op.x.rows;
    let weights = [op.w_q, op.w_k, op.w_v];
    // Of few rows, one launch for all three takes less than three of the library.
    let library = rows > few_rows::ROWS;
    let kernel = matmul::chosen(QkvRopeAppend::NAME, rows, &weights, library, context)?;
    let norm = RmsNorm {
        x: op.x,
        select: None,
        norm: op.norm,
        epsilon: op.epsilon,
        count: op.count,
        rows,
    };
    let (normalise, a) = rms_norm::launch(&norm, kernel)?;
    let with_biases = kernel != MatmulKernel::Library;
    let biases = [op.b_q, op.b_k, op.b_v];
    let products = [0, 1, 2].map(|index| Product {
        weight: weights[index],
        bias: biases[index].filter(|_| with_biases),
        y: outputs[index],
    });
    let matmul = Matmul {
        products: &products,
        a,
        count: op.count,
        rows,
        add: false,
        half: false,
        kernel,
    };
    let mut launches = vec![normalise.into()];
    launches.extend(matmul::launch(&matmul, context)?);
    Ok((launches, with_biases))
}

/// What follows the products, which are in `inputs`, with their biases or without.
fn append(
    op: &QkvRopeAppend,
    inputs: [Argument; 3],
    with_biases: bool,
) -> Result<Dispatch, BackendError> {
    let bias = |bias: Option<Tensor>| Argument::from(bias.filter(|_| !with_biases));
    let (rows, head_dim, kv_heads) = (op.x.rows, op.shape.head_dim, op.shape.kv_heads);
    let heads = op.q.cols / head_dim;
    let unroped = op.space == KeySpace::Unroped;
    let [q_in, k_in, v_in] = inputs;
    dispatch(
        "qkv_rope_append",
        &[],
        &[
            ("q_in", q_in),
            ("k_in", k_in),
            ("v_in", v_in),
            ("b_q", bias(op.b_q)),
            ("b_k", bias(op.b_k)),
            ("b_v", bias(op.b_v)),
            ("q_norm", op.q_norm.into()),
            ("k_norm", op.k_norm.into()),
            ("rope", op.rope.into()),
            ("rows", op.rows.into()),
            ("count", op.count.into()),
            ("q_out", op.q.into()),
            ("kv", op.kv.into()),
            ("staged", op.staged.into()),
            ("capacity", rows.into()),
            ("heads", heads.into()),
            ("kv_heads", kv_heads.into()),
            ("head_dim", head_dim.into()),
            ("unroped", u32::from(unroped).into()),
            ("rope_rows", op.rope.rows.into()),
            ("rope_pitch", head_dim.next_multiple_of(4).into()),
            ("q_pitch", op.q.cols.next_multiple_of(4).into()),
            ("kv_in_pitch", op.shape.width().next_multiple_of(4).into()),
            ("kv_pitch", ((op.shape.raw_bytes() / 2) as u32).into()),
            ("slots", op.kv.rows.into()),
            (
                "staged_rows",
                op.staged.map_or(0, |staged| staged.rows).into(),
            ),
            ("epsilon", op.epsilon.into()),
        ],
        [
            rows,
            (heads + 2 * kv_heads).div_ceil(threads("qkv_rope_append") / WARP),
            1,
        ],
    )
}
