//! Normalised rows in scratch memory, as the products of several ops read them.

use longwave_contract::{BackendError, Tensor};

use super::matmul::Input;
use super::{Bound, Context, Dispatch, kernel, params, unsupported};

/// The norm of an op's input.
pub(super) struct RmsNorm {
    /// The op, for errors.
    pub op: &'static str,
    /// Input rows.
    pub x: Tensor,
    /// Which of them to take; all in order where it is absent.
    pub select: Option<Tensor>,
    /// Norm weights.
    pub norm: Tensor,
    /// Added to the mean square.
    pub epsilon: f32,
    /// How many output rows count.
    pub count: Tensor,
    /// Output rows' capacity.
    pub rows: u32,
    /// How products take the rows.
    pub input: Input,
    /// Number of the scratch buffer that takes the rows.
    pub scratch: usize,
}

/// The dispatch, and the scratch buffer that it fills.
///
/// # Errors
/// [`BackendError::Unsupported`] for rows that are not whole quads, or an input that exceeds a binding.
pub(super) fn launch(
    norm: &RmsNorm,
    context: &Context<'_>,
) -> Result<(Dispatch, Bound), BackendError> {
    let width = norm.x.cols;
    if !width.is_multiple_of(4) {
        let why = format!("rows of {width} elements are not whole quads");
        return Err(unsupported(norm.op, why));
    }
    let rows = if norm.select.is_some() {
        "rows_select"
    } else {
        "rows_all"
    };
    let out = match norm.input {
        Input::Whole => "out_f32",
        Input::Half(_) | Input::Parts => "out_f16",
    };
    let (out_rows, element) = norm.input.room(norm.rows);
    let kernel = kernel("rms_norm", &[rows, context.reduce(), out])?;
    let bytes = u64::from(out_rows) * u64::from(width) * element;
    let out = context.scratch(norm.op, norm.scratch, bytes)?;
    let grid = context.grid(norm.op, u64::from(norm.rows))?;
    let mut bindings = vec![
        ("x", context.whole(norm.op, "x", norm.x)?),
        ("norm", Bound::Tensor(norm.norm)),
        ("count", Bound::Tensor(norm.count)),
        ("out", out),
    ];
    if let Some(select) = norm.select {
        bindings.push(("selected", Bound::Tensor(select)));
    }
    let values = [
        ("rows", norm.rows.into()),
        ("input_rows", norm.x.rows.into()),
        ("width", (width / 4).into()),
        ("apart", (norm.input.apart() * (width / 4)).into()),
        ("x_groups", grid[0].into()),
        ("epsilon", norm.epsilon.into()),
    ];
    let dispatch = Dispatch {
        kernel,
        overrides: Vec::new(),
        params: params(kernel, &values)?,
        bindings,
        grid,
        work: 2 * u64::from(norm.rows) * u64::from(width),
    };
    Ok((dispatch, out))
}
