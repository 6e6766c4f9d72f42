//! Products with one row, which is what most decode steps have: the norm is folded in, and weights that share an input share a dispatch.

use longwave_contract::{BackendError, DType, DeviceKind, Tensor};
use longwave_shaders::Kernel;

use super::matmul::{self, Matmul};
use super::{Bound, Context, Dispatch, MatmulKernel, Word, kernel, params};

/// Threads of a workgroup.
const THREADS: u32 = 256;
/// Elements of the input that a workgroup stages at a time.
const SEGMENT: u32 = 2048;
/// Outputs with which teams of one output each keep a large device busy no better than teams of several do.
const MANY: u32 = 16_384;

/// The norm of the input, folded into a product.
pub(super) struct Norm {
    /// Norm weights.
    pub norm: Tensor,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Whether the kernels of this file serve products of `rows` rows of `columns`. Software devices pay dearly for staging and its barriers: there the
/// kernel for several rows is quicker, unless a test asks for these.
pub(super) fn serves(rows: u32, columns: u32, context: &Context<'_>) -> bool {
    let quick = context.caps.kind != DeviceKind::Software
        || context.force.matmul == Some(MatmulKernel::Row);
    rows == 1 && quick && matmul::chosen(rows, columns, context) == MatmulKernel::Row
}

/// Whether weights can share a dispatch: they are of one type and width, and each lies in one piece.
pub(super) fn share(weights: &[Tensor], context: &Context<'_>) -> bool {
    let alike = weights
        .windows(2)
        .all(|pair| pair[0].dtype == pair[1].dtype && pair[0].cols == pair[1].cols);
    alike
        && weights
            .iter()
            .all(|weight| context.windows(*weight).len() == 1)
}

/// Outputs of a team. One of f16 weights, which are many bytes, keeps enough loads under way; codes are fewer bytes and more work, of which
/// outputs share the part that the input causes.
pub(super) fn select(dtype: DType, outputs: u32) -> u32 {
    match (dtype, outputs >= MANY) {
        (DType::F16, false) => 1,
        (DType::F16, true) => 2,
        (_, false) => 2,
        (_, true) => 4,
    }
}

/// Chunks that a thread loads at once of each of a team's outputs: as many as keep the device's memory busy, and no more, since they take registers.
pub(super) fn unroll(dtype: DType, outputs: u32) -> u32 {
    match (dtype, outputs) {
        (DType::Q4, _) | (DType::F16, 4..) => 2,
        _ => 4,
    }
}

/// What the kernels' parameters say of weights, and of the row that they multiply.
pub(super) fn weight_words(weight: Tensor) -> [(&'static str, Word); 5] {
    let format = weight.dtype.row_format(weight.cols);
    [
        ("chunks", ((format.scale_offset / 16) as u32).into()),
        ("weight_pitch", ((format.row_bytes / 16) as u32).into()),
        ("scale_offset", ((format.scale_offset / 16) as u32).into()),
        ("quads", (weight.cols / 4).into()),
        ("segments", weight.cols.div_ceil(SEGMENT).into()),
    ]
}

/// The kernel for weights of a type, and how many teams a workgroup has.
pub(super) fn kernel_of(
    stem: &str,
    dtype: DType,
    inputs: &[&str],
    context: &Context<'_>,
) -> Result<(&'static Kernel, u32), BackendError> {
    let (team, teams) = context.team(THREADS);
    let codes = format!("codes_{}", dtype.name());
    let crew = team.replace("team", "crew");
    let variants: Vec<&str> = [&[codes.as_str()], inputs, &[crew.as_str()]].concat();
    Ok((kernel(stem, &variants)?, teams))
}

/// The dispatches of a product, one for each slab of the weights. With a norm, the input is that of a selected row.
///
/// # Errors
/// [`longwave_contract::BackendError::Unsupported`] for too large a grid, and operands that exceed a binding.
pub(super) fn launch(
    matmul: &Matmul,
    selected: Option<(&Norm, Tensor, Tensor)>,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let weight = matmul.weight;
    let input = match selected {
        Some(_) => "input_selected",
        None => "input_plain",
    };
    let (kernel, teams) = kernel_of("matmul_one", weight.dtype, &[input], context)?;
    let outputs = select(weight.dtype, weight.rows);
    let absent = Bound::Tensor(matmul.count);
    let bias = match matmul.bias {
        Some(bias) => context.whole(matmul.op, "bias", bias)?,
        None => absent,
    };
    let mut dispatches = Vec::new();
    for window in context.windows(weight) {
        let groups = window.rows.div_ceil(outputs * teams);
        let grid = context.grid(matmul.op, u64::from(groups))?;
        let mut values = weight_words(weight).to_vec();
        values.extend([
            ("outputs", window.rows.into()),
            ("first", window.first.into()),
            ("input_rows", selected.map_or(1, |(_, x, _)| x.rows).into()),
            ("x_groups", grid[0].into()),
            ("teams", teams.into()),
            ("add", u32::from(matmul.add).into()),
            ("has_bias", u32::from(matmul.bias.is_some()).into()),
            (
                "epsilon",
                selected.map_or(0.0, |(norm, _, _)| norm.epsilon).into(),
            ),
        ]);
        let mut bindings = vec![
            ("weight0", window.bound),
            ("a", matmul.a),
            ("bias", bias),
            ("count", absent),
            ("y", matmul.y),
        ];
        if let Some((norm, _, select)) = selected {
            bindings.push(("norm", Bound::Tensor(norm.norm)));
            bindings.push(("selected", Bound::Tensor(select)));
        }
        dispatches.push(Dispatch {
            kernel,
            overrides: vec![
                ("OUTPUTS", f64::from(outputs)),
                ("UNROLL", f64::from(unroll(weight.dtype, outputs))),
            ],
            params: params(kernel, &values)?,
            bindings,
            grid,
            work: u64::from(window.rows) * u64::from(weight.cols),
        });
    }
    Ok(dispatches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn teams_take_more_outputs_where_there_are_many_or_where_they_are_codes() {
        assert_eq!(select(DType::F16, 4096), 1);
        assert_eq!(select(DType::F16, 128_256), 2);
        assert_eq!(select(DType::Q4, 4096), 2);
        assert_eq!(select(DType::Q8G32, 128_256), 4);
    }
}
