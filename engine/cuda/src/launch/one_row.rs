//! Products with one row, which is what most decode steps have: the norm is folded in, weights that share an input share a launch, and each
//! multiprocessor has one block, whose share of the weights streams through it.

use longwave_contract::kv::KeySpace;
use longwave_contract::op::{GateUpSilu, QkvRopeAppend};
use longwave_contract::{BackendError, DType, Tensor};

use super::{Argument, Context, Dispatch, WARP, dispatch, weight};

/// Threads of a block of all kernels here.
const THREADS: u32 = 512;
/// Chunks of 16 bytes of codes that a thread has under way: of two rows, four steps ahead.
const AHEAD: u32 = 8;
/// Shared memory of a block, less than what any device has: twice as much lets a block of the next kernel load its first weights beside it.
const SHARED: u32 = 98 << 10;
/// What a block may have where a multiprocessor has 228 KiB: room to stage all of a longer row, which leaves 97 KiB for a block of a neighbour.
const SHARED_LARGE: u32 = 129 << 10;

/// The norm of the input, folded into a product.
pub(super) struct Norm {
    /// Norm weights.
    pub norm: Tensor,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Whether the kernels of this file serve products of `rows` rows with weights of `columns` columns.
pub(super) fn serves(rows: u32, columns: u32) -> bool {
    rows == 1 && columns.is_multiple_of(32)
}

/// Whether one launch serves the op.
pub(super) fn gate_up_serves(op: &GateUpSilu) -> bool {
    serves(op.out.rows, op.x.cols) && alike(&[op.w_gate, op.w_up])
}

/// Whether one launch serves the op: head norms need all of a head, which several blocks compute.
pub(super) fn qkv_serves(op: &QkvRopeAppend) -> bool {
    qkv_products_serves(op) && op.q_norm.is_none() && op.k_norm.is_none()
}

/// Whether one launch makes the products of the op.
pub(super) fn qkv_products_serves(op: &QkvRopeAppend) -> bool {
    serves(op.x.rows, op.x.cols) && alike(&[op.w_q, op.w_k, op.w_v])
}

/// Whether weights can share a launch.
fn alike(weights: &[Tensor]) -> bool {
    weights
        .windows(2)
        .all(|pair| pair[0].dtype == pair[1].dtype && pair[0].cols == pair[1].cols)
}

/// How a launch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Blocks.
    blocks: u32,
    /// Chunks of a weight row whose input a block stages at a time, a multiple of a warp.
    segment: u32,
    /// Bytes of dynamic shared memory.
    shared: u32,
}

/// One block for each multiprocessor; and all of the input at once, unless it is larger than the shared memory that the weights under way leave, beside
/// which sums of outputs are then kept there too.
fn cut(weight: Tensor, pairs: u32, processors: u32, capability: u32) -> Cut {
    let blocks = pairs.min(processors).max(1);
    let limit = match capability {
        90..120 => SHARED_LARGE,
        _ => SHARED,
    };
    // Bytes of the ring for a chunk, with the word of its scale, and of what is staged for it: part/staged_row.
    let (under_way, staged) = match weight.dtype {
        DType::Q4 => (20, 6 * 16 + 8),
        DType::Q8G32 | DType::Q8G16 | DType::Q8G32M => (20, 3 * 16 + 8),
        DType::F16 | DType::F32 | DType::U32 => (16, 2 * 16),
    };
    let ring = AHEAD * THREADS * under_way;
    let whole = chunks(weight).next_multiple_of(WARP);
    if ring + whole * staged <= limit {
        return Cut {
            blocks,
            segment: whole,
            shared: ring + whole * staged,
        };
    }
    let sums = 8 * pairs.div_ceil(blocks);
    let most = (limit - ring).saturating_sub(sums) / (staged * WARP);
    let segments = (whole / WARP).div_ceil(most.max(1));
    let segment = WARP * (whole / WARP).div_ceil(segments);
    Cut {
        blocks,
        segment,
        shared: ring + segment * staged + sums,
    }
}

/// Chunks of 16 bytes of a row's codes.
fn chunks(weight: Tensor) -> u32 {
    (weight.dtype.row_format(weight.cols).scale_offset / 16) as u32
}

/// The launch of a kernel of this family that computes `pairs` pairs of outputs.
fn launch(
    name: &str,
    of: Tensor,
    pairs: u32,
    arguments: &[(&str, Argument)],
    context: &Context,
) -> Result<Dispatch, BackendError> {
    let cut = cut(of, pairs, context.processors, context.capability);
    let shape = [
        ("chunks", chunks(of).into()),
        ("weight_pitch", ((of.row_bytes() / 16) as u32).into()),
        ("segment", cut.segment.into()),
    ];
    let launch = dispatch(
        name,
        &[("WEIGHT", weight(of))],
        &[arguments, &shape].concat(),
        [cut.blocks, 1, 1],
    )?;
    Ok(Dispatch {
        shared: cut.shared,
        ..launch
    })
}

/// `y = weight * n + bias`, or added to `y`: `n` is the first row of `a`, or the norm of the row that the table beside the norm selects.
///
/// # Errors
/// None but defects.
#[expect(clippy::too_many_arguments, reason = "an operand each")]
pub(super) fn product(
    weight: Tensor,
    a: Tensor,
    selected: Option<(&Norm, Tensor)>,
    bias: Option<Tensor>,
    count: Tensor,
    y: Tensor,
    add: bool,
    context: &Context,
) -> Result<Dispatch, BackendError> {
    let epsilon = selected.map_or(0.0, |(norm, _)| norm.epsilon);
    let arguments = [
        ("weight", weight.into()),
        ("a", a.into()),
        ("selected", selected.map(|(_, select)| select).into()),
        ("norm", selected.map(|(norm, _)| norm.norm).into()),
        ("bias", bias.into()),
        ("count", count.into()),
        ("y", y.into()),
        ("outputs", weight.rows.into()),
        ("input_rows", a.rows.into()),
        ("input_pitch", (a.cols / 4).into()),
        ("add", u32::from(add).into()),
        ("epsilon", epsilon.into()),
    ];
    let pairs = weight.rows.div_ceil(2);
    launch("matmul_one", weight, pairs, &arguments, context)
}

/// All of the op, where [`gate_up_serves`] says so.
///
/// # Errors
/// None but defects.
pub(super) fn gate_up_silu(op: &GateUpSilu, context: &Context) -> Result<Dispatch, BackendError> {
    let outputs = op.w_gate.rows;
    let arguments = [
        ("gate", op.w_gate.into()),
        ("up", op.w_up.into()),
        ("x", op.x.into()),
        ("norm", op.norm.into()),
        ("count", op.count.into()),
        ("out", op.out.into()),
        ("outputs", outputs.into()),
        ("epsilon", op.epsilon.into()),
    ];
    launch("gate_up_silu_one", op.w_gate, outputs, &arguments, context)
}

/// All of the op, where [`qkv_serves`] says so.
///
/// # Errors
/// None but defects.
pub(super) fn qkv_rope_append(
    op: &QkvRopeAppend,
    context: &Context,
) -> Result<Vec<Dispatch>, BackendError> {
    let head_dim = op.shape.head_dim;
    let arguments = [
        ("w_q", op.w_q.into()),
        ("w_k", op.w_k.into()),
        ("w_v", op.w_v.into()),
        ("x", op.x.into()),
        ("norm", op.norm.into()),
        ("b_q", op.b_q.into()),
        ("b_k", op.b_k.into()),
        ("b_v", op.b_v.into()),
        ("rope", op.rope.into()),
        ("rows", op.rows.into()),
        ("count", op.count.into()),
        ("q", op.q.into()),
        ("kv", op.kv.into()),
        ("staged", op.staged.into()),
        ("q_outputs", op.w_q.rows.into()),
        ("kv_outputs", op.w_k.rows.into()),
        ("head_dim", head_dim.into()),
        ("rope_rows", op.rope.rows.into()),
        ("rope_pitch", head_dim.next_multiple_of(4).into()),
        ("kv_pitch", ((op.shape.raw_bytes() / 2) as u32).into()),
        ("slots", op.kv.rows.into()),
        ("staged_rows", op.staged.map_or(0, |rows| rows.rows).into()),
        ("unroped", u32::from(op.space == KeySpace::Unroped).into()),
        ("epsilon", op.epsilon.into()),
    ];
    let pairs = op.w_q.rows / 2 + op.w_k.rows;
    let whole = launch("qkv_rope_append_whole", op.w_q, pairs, &arguments, context)?;
    Ok(vec![whole])
}

/// The products of the op with their biases, without what follows them, into `outputs`, where [`qkv_products_serves`] says so.
///
/// # Errors
/// None but defects.
pub(super) fn qkv_products(
    op: &QkvRopeAppend,
    outputs: [Argument; 3],
    context: &Context,
) -> Result<Dispatch, BackendError> {
    let [q, k, v] = outputs;
    let arguments = [
        ("w_q", op.w_q.into()),
        ("w_k", op.w_k.into()),
        ("w_v", op.w_v.into()),
        ("x", op.x.into()),
        ("norm", op.norm.into()),
        ("b_q", op.b_q.into()),
        ("b_k", op.b_k.into()),
        ("b_v", op.b_v.into()),
        ("q", q),
        ("k", k),
        ("v", v),
        ("q_outputs", op.w_q.rows.into()),
        ("kv_outputs", op.w_k.rows.into()),
        ("epsilon", op.epsilon.into()),
    ];
    let pairs = op.w_q.rows / 2 + op.w_k.rows;
    launch("qkv_rope_append_one", op.w_q, pairs, &arguments, context)
}

#[cfg(test)]
mod tests {
    use longwave_contract::BufferId;

    use super::*;

    fn weight(dtype: DType, rows: u32, cols: u32) -> Tensor {
        Tensor::new(BufferId(0), dtype, rows, cols)
    }

    #[test]
    fn rings_are_of_the_threads_that_kernels_have() {
        for name in [
            "matmul_one",
            "gate_up_silu_one",
            "qkv_rope_append_one",
            "qkv_rope_append_whole",
        ] {
            assert_eq!(super::super::threads(name), THREADS, "{name}");
        }
    }

    #[test]
    fn a_row_that_fits_is_staged_at_once() {
        let found = cut(weight(DType::F16, 4096, 4096), 2048, 132, 80);
        assert_eq!((found.blocks, found.segment), (132, 512));
        assert_eq!(found.shared, (64 << 10) + (16 << 10));
        // The last step of a warp is staged whole.
        assert_eq!(cut(weight(DType::Q4, 64, 576), 32, 132, 80).segment, 32);
        assert_eq!(cut(weight(DType::Q4, 64, 576), 32, 132, 80).blocks, 32);
        // Large shared memory has room for all of a long row.
        for (dtype, chunks) in [
            (DType::F16, 1792),
            (DType::Q8G32, 896),
            (DType::Q8G32M, 896),
            (DType::Q4, 448),
        ] {
            let found = cut(weight(dtype, 4096, 14_336), 2048, 132, 90);
            assert_eq!(found.segment, chunks, "{dtype}");
            assert!(found.shared <= SHARED_LARGE);
        }
    }

    #[test]
    fn a_long_row_is_staged_in_equal_segments() {
        for (dtype, segment) in [(DType::F16, 896), (DType::Q8G32, 320), (DType::Q4, 160)] {
            let found = cut(weight(dtype, 4096, 14_336), 2048, 132, 80);
            assert_eq!(found.segment, segment, "{dtype}");
            assert!(found.shared <= SHARED);
        }
    }

    #[test]
    fn weights_share_a_launch_when_they_are_alike() {
        let [a, b] = [DType::Q4, DType::Q8G32].map(|dtype| weight(dtype, 64, 96));
        assert!(alike(&[a, a, a]));
        assert!(!alike(&[a, a, b]));
        assert!(serves(1, 96) && !serves(2, 96) && !serves(1, 100));
    }
}
