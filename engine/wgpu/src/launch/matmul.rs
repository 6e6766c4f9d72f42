//! Matrix products: `y = weight * a + bias`, which several ops are made of. Matrix units take rows of f16, which a norm leaves in scratch
//! memory, or a dispatch of their own makes ([`factor`]).

use longwave_contract::{BackendError, DType, DeviceKind, Tensor};

use super::{Bound, Context, Dispatch, MatmulKernel, kernel, one_row, params, unsupported};

/// Rows that the row kernel takes at a time.
const ROWS: u32 = 8;
/// Outputs of a team of the row kernel.
const TEAM_OUTPUTS: u32 = 4;
/// Threads of a workgroup of the row kernel.
const ROW_THREADS: u32 = 64;
/// Rows and outputs of a workgroup of the tile kernel.
const TILE: u32 = 64;
/// Columns that the tile kernels take in a step.
pub(super) const STEP: u32 = 32;
/// Rows and outputs of a workgroup of the cooperative kernel, where there are enough of them.
const LARGE_TILE: u32 = 128;
/// Columns that it takes in a step then.
const LARGE_STEP: u32 = 64;
/// Large tiles that keep a large device busy.
const BUSY: u64 = 96;
/// Rows that the kernel for few rows takes at most, and those of its tiles.
const FEW_ROWS: u32 = 32;
const FEW_TILE: u32 = 16;
/// Columns that it takes in a step.
const FEW_STEP: u32 = 64;
/// Outputs from which its tiles have 32 of them and not 16: half as many tiles still keep a large device busy.
const FEW_WIDE: u32 = 4096;

/// One product of an op. Output rows are f32 and padded to 16 bytes, as all tensors are.
pub(super) struct Matmul {
    /// The op, for errors.
    pub op: &'static str,
    /// Weights `[outputs, columns]`.
    pub weight: Tensor,
    /// Input rows, and how they are there.
    pub a: Bound,
    pub input: Input,
    /// Bias, `f32[1, outputs]`.
    pub bias: Option<Tensor>,
    /// How many rows count.
    pub count: Tensor,
    /// Output rows.
    pub y: Bound,
    /// Row capacity.
    pub rows: u32,
    /// Whether the product is added to `y`.
    pub add: bool,
}

/// The kernel for `rows` rows. The row kernel wastes nothing on few rows, but reads the weights once for every eight. A software device
/// has no fast workgroup memory and pays dearly for each barrier, of which the tile kernel has two in every step: on llvmpipe with two
/// cores it takes 1.3 to 1.7 times as long for 64 rows.
fn select(
    rows: u32,
    columns: u32,
    kind: DeviceKind,
    cooperative: bool,
    forced: Option<MatmulKernel>,
) -> MatmulKernel {
    let few = columns.is_multiple_of(FEW_STEP);
    match forced {
        Some(MatmulKernel::Few) if !few => MatmulKernel::Cooperative,
        Some(forced) => forced,
        None if rows <= ROWS || kind == DeviceKind::Software => MatmulKernel::Row,
        None if cooperative && few && rows <= FEW_ROWS => MatmulKernel::Few,
        None if cooperative => MatmulKernel::Cooperative,
        None => MatmulKernel::Tile,
    }
}

/// The kernel for `rows` rows of `columns` on a device.
pub(super) fn chosen(rows: u32, columns: u32, context: &Context<'_>) -> MatmulKernel {
    select(
        rows,
        columns,
        context.caps.kind,
        context.cooperative(),
        context.force.matmul,
    )
}

/// Rows and outputs of a workgroup of the cooperative kernel: a larger tile reads less for each product, a smaller one leaves fewer
/// processors idle.
fn cooperative_tile(rows: u32, outputs: u32, columns: u32) -> u32 {
    let tiles = u64::from(rows.div_ceil(LARGE_TILE)) * u64::from(outputs.div_ceil(LARGE_TILE));
    match rows > TILE && tiles >= BUSY && columns.is_multiple_of(LARGE_STEP) {
        true => LARGE_TILE,
        false => TILE,
    }
}

/// How rows enter products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// As f32.
    Whole,
    /// As f16, so many of them: matrix units read whole tiles of few rows, and those beyond the last only make rows that are not stored.
    Half(u32),
    /// As f16 in two parts, the larger ones in the first rows of a tile and the smaller ones in the others, which together are as exact as f32: as
    /// few rows as these leave half a tile empty.
    Parts,
}

impl Input {
    /// Rows in memory and bytes of an element, of `rows` rows.
    pub(super) fn room(self, rows: u32) -> (u32, u64) {
        match self {
            Input::Whole => (rows, 4),
            Input::Half(rows) => (rows, 2),
            Input::Parts => (FEW_TILE, 2),
        }
    }

    /// Rows from larger parts to smaller ones; 0 where there are none.
    pub(super) fn apart(self) -> u32 {
        match self {
            Input::Parts => ROWS,
            Input::Whole | Input::Half(_) => 0,
        }
    }
}

/// How `rows` rows enter products with some weights, which all take them so. Weights of f16 lose nothing in matrix units.
pub(super) fn input(rows: u32, weights: &[Tensor], context: &Context<'_>) -> Input {
    let columns = weights.first().map_or(0, |weight| weight.cols);
    match chosen(rows, columns, context) {
        MatmulKernel::Row
            if (2..=ROWS).contains(&rows)
                && columns.is_multiple_of(FEW_STEP)
                && context.cooperative()
                && context.force.matmul.is_none()
                && weights.iter().all(|weight| weight.dtype == DType::F16) =>
        {
            Input::Parts
        }
        MatmulKernel::Row | MatmulKernel::Tile => Input::Whole,
        MatmulKernel::Few => Input::Half(rows.next_multiple_of(few_tile(rows))),
        MatmulKernel::Cooperative => Input::Half(rows),
    }
}

/// Rows of a tile of the kernel for few rows.
fn few_tile(rows: u32) -> u32 {
    if rows > FEW_TILE {
        2 * FEW_TILE
    } else {
        FEW_TILE
    }
}

/// An op's input as its product takes it ([`input`]): as it is, or converted in scratch memory by the dispatch that is returned.
///
/// # Errors
/// [`BackendError::Unsupported`] for an input that exceeds a binding, or too large a grid.
pub(super) fn factor(
    op: &'static str,
    a: Tensor,
    input: Input,
    count: Tensor,
    context: &Context<'_>,
) -> Result<(Option<Dispatch>, Bound), BackendError> {
    let given = context.whole(op, "a", a)?;
    if input == Input::Whole {
        return Ok((None, given));
    }
    let (half_rows, _) = input.room(a.rows);
    let kernel = kernel("to_half", &[])?;
    let pitch = a.cols.div_ceil(4);
    let quads = u64::from(a.rows) * u64::from(pitch);
    let out = context.scratch(op, 0, u64::from(half_rows) * u64::from(pitch) * 8)?;
    let grid = context.grid(op, quads.div_ceil(u64::from(kernel.workgroup[0])))?;
    let values = [
        ("rows", a.rows.into()),
        ("pitch", pitch.into()),
        ("apart", (input.apart() * pitch).into()),
        ("x_groups", grid[0].into()),
    ];
    let dispatch = Dispatch {
        kernel,
        overrides: Vec::new(),
        params: params(kernel, &values)?,
        bindings: vec![("a", given), ("count", Bound::Tensor(count)), ("out", out)],
        grid,
        work: quads,
    };
    Ok((Some(dispatch), out))
}

/// The dispatches of one product: one for each slab of the weights.
///
/// # Errors
/// [`BackendError::Unsupported`] for columns that are not a multiple of 32, or too large a grid.
pub(super) fn launch(
    matmul: &Matmul,
    context: &Context<'_>,
) -> Result<Vec<Dispatch>, BackendError> {
    let weight = matmul.weight;
    if !weight.cols.is_multiple_of(STEP) {
        let why = format!("weights {weight} have columns that are no multiple of {STEP}");
        return Err(unsupported(matmul.op, why));
    }
    if one_row::serves(matmul.rows, weight.cols, context) {
        return one_row::launch(matmul, None, context);
    }
    let variant = format!("weight_{}", weight.dtype.name());
    let chosen = match matmul.input {
        Input::Parts => MatmulKernel::Few,
        Input::Whole | Input::Half(_) => chosen(matmul.rows, weight.cols, context),
    };
    let (team, teams) = context.team(ROW_THREADS);
    let (tile, across) = match chosen {
        MatmulKernel::Cooperative => {
            let tile = cooperative_tile(matmul.rows, weight.rows, weight.cols);
            (tile, tile)
        }
        MatmulKernel::Few if matmul.rows > FEW_TILE || weight.rows >= FEW_WIDE => {
            (few_tile(matmul.rows), 2 * FEW_TILE)
        }
        MatmulKernel::Few => (FEW_TILE, FEW_TILE),
        MatmulKernel::Row | MatmulKernel::Tile => (TILE, TILE),
    };
    let half = format!("half_{}", weight.dtype.name());
    let kernel = match chosen {
        MatmulKernel::Row => kernel("matmul_row", &[&variant, team])?,
        MatmulKernel::Tile => kernel("matmul_tile", &[&variant])?,
        MatmulKernel::Few => kernel("matmul_few", &[&half, &format!("few_tile_{tile}_{across}")])?,
        MatmulKernel::Cooperative => kernel("matmul_coop", &[&half, &format!("coop_tile_{tile}")])?,
    };
    let format = weight.dtype.row_format(weight.cols);
    let bias = match matmul.bias {
        Some(bias) => context.whole(matmul.op, "bias", bias)?,
        None => Bound::Tensor(matmul.count),
    };
    let mut dispatches = Vec::new();
    for window in context.windows(weight) {
        let grid = match chosen {
            MatmulKernel::Row => {
                let groups = window.rows.div_ceil(TEAM_OUTPUTS * teams);
                let [x, y, _] = context.grid(matmul.op, u64::from(groups))?;
                [x, y, matmul.rows.div_ceil(ROWS)]
            }
            MatmulKernel::Few | MatmulKernel::Tile | MatmulKernel::Cooperative => {
                [matmul.rows.div_ceil(tile), window.rows.div_ceil(across), 1]
            }
        };
        if grid
            .iter()
            .any(|&groups| groups > context.caps.workgroups_per_axis)
        {
            return Err(unsupported(
                matmul.op,
                format!("a grid of {grid:?} workgroups"),
            ));
        }
        let mut values = vec![
            ("rows", matmul.rows.into()),
            ("outputs", window.rows.into()),
            ("first", window.first.into()),
            ("weight_pitch", ((format.row_bytes / 16) as u32).into()),
            ("scale_offset", ((format.scale_offset / 16) as u32).into()),
            ("a_pitch", (weight.cols / 4).into()),
            ("y_pitch", weight.rows.next_multiple_of(4).into()),
            ("add", u32::from(matmul.add).into()),
            ("has_bias", u32::from(matmul.bias.is_some()).into()),
        ];
        let mut overrides = Vec::new();
        match chosen {
            MatmulKernel::Row => {
                values.push(("chunks", ((format.scale_offset / 16) as u32).into()));
                values.push(("x_groups", grid[0].into()));
                values.push(("teams", teams.into()));
                let rows = matmul.rows.next_power_of_two().min(ROWS);
                overrides.push(("ROWS", f64::from(rows)));
            }
            MatmulKernel::Few => values.push(("steps", (weight.cols / FEW_STEP).into())),
            MatmulKernel::Tile | MatmulKernel::Cooperative => {
                let step = if tile == LARGE_TILE { LARGE_STEP } else { STEP };
                values.push(("steps", (weight.cols / step).into()));
            }
        }
        if let MatmulKernel::Few | MatmulKernel::Cooperative = chosen {
            values.push(("parts", u32::from(matmul.input == Input::Parts).into()));
        }
        dispatches.push(Dispatch {
            kernel,
            overrides,
            params: params(kernel, &values)?,
            bindings: vec![
                ("weight", window.bound),
                ("a", matmul.a),
                ("bias", bias),
                ("count", Bound::Tensor(matmul.count)),
                ("y", matmul.y),
            ],
            grid,
            work: u64::from(matmul.rows) * u64::from(window.rows) * u64::from(weight.cols),
        });
    }
    Ok(dispatches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_take_the_row_kernel_and_many_a_tile_kernel() {
        let (gpu, software) = (DeviceKind::Discrete, DeviceKind::Software);
        assert_eq!(select(1, 4096, gpu, true, None), MatmulKernel::Row);
        assert_eq!(select(8, 4096, gpu, false, None), MatmulKernel::Row);
        assert_eq!(select(9, 4096, gpu, false, None), MatmulKernel::Tile);
        assert_eq!(select(9, 4096, gpu, true, None), MatmulKernel::Few);
        assert_eq!(select(32, 4096, gpu, true, None), MatmulKernel::Few);
        assert_eq!(select(33, 4096, gpu, true, None), MatmulKernel::Cooperative);
        assert_eq!(select(9, 96, gpu, true, None), MatmulKernel::Cooperative);
        assert_eq!(select(9, 4096, software, false, None), MatmulKernel::Row);
        for forced in [MatmulKernel::Row, MatmulKernel::Tile] {
            assert_eq!(select(3, 4096, gpu, true, Some(forced)), forced);
            assert_eq!(select(100, 4096, software, false, Some(forced)), forced);
        }
    }

    #[test]
    fn large_tiles_are_for_products_that_fill_a_device() {
        assert_eq!(cooperative_tile(512, 4096, 4096), 128);
        assert_eq!(cooperative_tile(512, 1024, 4096), 64);
        assert_eq!(cooperative_tile(64, 128_256, 4096), 64);
        assert_eq!(cooperative_tile(512, 4096, 96), 64);
    }
}
