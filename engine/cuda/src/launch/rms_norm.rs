//! Normalised rows in scratch 0, as the products of several ops read them.

use longwave_contract::{BackendError, Tensor};

use super::{Argument, Dispatch, MatmulKernel, dispatch};

/// The norm of an op's input, whose rows are whole quads.
pub(super) struct RmsNorm {
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
}

/// The launch, and the rows that it leaves, of the type that the products' kernel takes.
///
/// # Errors
/// None but defects.
pub(super) fn launch(
    norm: &RmsNorm,
    kernel: MatmulKernel,
) -> Result<(Dispatch, Argument), BackendError> {
    let (name, element) = match kernel {
        MatmulKernel::Row => ("FLOAT", 4),
        MatmulKernel::Few | MatmulKernel::Tile | MatmulKernel::Library => ("HALF", 2),
    };
    let out = Argument::Scratch {
        index: 0,
        bytes: u64::from(norm.rows) * u64::from(norm.x.cols) * element,
    };
    let dispatch = dispatch(
        "rms_norm",
        &[("OUT", name)],
        &[
            ("x", norm.x.into()),
            ("selected", norm.select.into()),
            ("norm", norm.norm.into()),
            ("count", norm.count.into()),
            ("out", out),
            ("capacity", norm.rows.into()),
            ("input_rows", norm.x.rows.into()),
            ("width", (norm.x.cols / 4).into()),
            ("epsilon", norm.epsilon.into()),
        ],
        [norm.rows, 1, 1],
    )?;
    Ok((dispatch, out))
}
