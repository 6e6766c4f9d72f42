//! Matrix products: `y = weight * a + bias`, which several ops are made of, several of one input in a launch. Tensor cores take rows of f16, which a
//! norm leaves in scratch memory, or a launch of its own makes ([`factor`]).

use longwave_contract::{BackendError, DType, Tensor};

use super::{
    Argument, Context, Dispatch, Launch, MatmulKernel, WARP, dispatch, few_rows, threads,
    unsupported, weight,
};
use crate::product::ProductShape;

/// Bytes of shared memory in which the row kernel has two segments of an input row, with their gaps.
const ROW_BYTES: u32 = 2 * 264 * 16;
/// Columns of which products take whole multiples.
const STEP: u32 = 32;
/// Bytes of a row of a tile in shared memory: 64 columns of f16.
const TILE_ROW_BYTES: u32 = 128;
/// The most products that a launch makes.
const MOST: usize = 3;
/// Elements that a thread converts.
const CONVERTED: u32 = 8;

/// One product. Results are f32, their rows padded to 16 bytes, as all tensors' are.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// Weights `[outputs, columns]`.
    pub weight: Tensor,
    /// Bias, `f32[1, outputs]`.
    pub bias: Option<Tensor>,
    /// Output rows.
    pub y: Argument,
}

/// Products of the same input.
pub(super) struct Matmul<'a> {
    /// At most three.
    pub products: &'a [Product],
    /// Input rows, of f16 for the tile kernel.
    pub a: Argument,
    /// How many rows count.
    pub count: Tensor,
    /// Row capacity.
    pub rows: u32,
    /// Whether the products are added to what is in `y`.
    pub add: bool,
    /// Whether the library writes f16, in rows of whole octets.
    pub half: bool,
    /// The kernel, as [`chosen`].
    pub kernel: MatmulKernel,
}

/// What the choice of a product's kernel depends on.
#[derive(Clone, Copy)]
struct Shape {
    rows: u32,
    /// Outputs of all products of the input.
    outputs: u32,
    columns: u32,
    dtype: DType,
}

/// Rows up to which inputs stay f32. Tensor cores take them as f16, which moves a sum by more than its tolerance where a model's inputs are large and
/// cancel, as those of a text's first tokens are.
const EXACT: u32 = 8;

/// The kernel of products. Up to eight rows take the row kernel, more the `library`, where it may serve: it is the fastest for what it can. Up to sixteen
/// others take the kernel for few rows.
fn select(shape: Shape, library: bool, forced: Option<MatmulKernel>) -> Option<MatmulKernel> {
    let library = library && shape.dtype == DType::F16;
    match forced {
        _ if !shape.columns.is_multiple_of(STEP) => None,
        Some(MatmulKernel::Library) if !library => Some(MatmulKernel::Tile),
        Some(MatmulKernel::Few) if shape.rows > few_rows::ROWS => Some(MatmulKernel::Tile),
        Some(forced) => Some(forced),
        None if shape.rows <= EXACT => Some(MatmulKernel::Row),
        None if library => Some(MatmulKernel::Library),
        None if shape.rows <= few_rows::ROWS => Some(MatmulKernel::Few),
        None => Some(MatmulKernel::Tile),
    }
}

/// The kernel of the products of one input with some weights; `library` says whether the op can use what cuBLASLt makes.
///
/// # Errors
/// [`BackendError::Unsupported`] for columns that are not a multiple of 32.
pub(super) fn chosen(
    op: &'static str,
    rows: u32,
    weights: &[Tensor],
    library: bool,
    context: &Context,
) -> Result<MatmulKernel, BackendError> {
    let weight = weights[0];
    let shape = Shape {
        rows,
        outputs: weights.iter().map(|weight| weight.rows).sum(),
        columns: weight.cols,
        dtype: weight.dtype,
    };
    let refuse = || {
        let why = format!("weights {weight} have columns that are no multiple of {STEP}");
        unsupported(op, why)
    };
    let alike = weights.iter().all(|other| other.dtype == weight.dtype);
    let library = library && alike && context.products;
    select(shape, library, context.force.matmul).ok_or_else(refuse)
}

/// An op's input as its product takes it: as it is, or converted in scratch 0 by the launch that is returned.
///
/// # Errors
/// None but defects.
pub(super) fn factor(
    a: Tensor,
    count: Tensor,
    kernel: MatmulKernel,
) -> Result<(Option<Dispatch>, Argument), BackendError> {
    if kernel == MatmulKernel::Row {
        return Ok((None, a.into()));
    }
    let elements = u64::from(a.rows) * u64::from(a.cols);
    let out = Argument::Scratch {
        index: 0,
        bytes: 2 * elements,
    };
    let convert = dispatch(
        "to_half",
        &[],
        &[
            ("a", a.into()),
            ("count", count.into()),
            ("out", out),
            ("capacity", a.rows.into()),
            ("pitch", (a.cols / 8).into()),
        ],
        [
            elements.div_ceil(u64::from(CONVERTED * threads("to_half"))) as u32,
            1,
            1,
        ],
    )?;
    Ok((Some(convert), out))
}

/// The launches of products: one for those whose weights are of one type.
///
/// # Errors
/// None but defects.
pub(super) fn launch(matmul: &Matmul<'_>, context: &Context) -> Result<Vec<Launch>, BackendError> {
    if matmul.kernel == MatmulKernel::Library {
        return Ok(matmul
            .products
            .iter()
            .map(|of| product(of, matmul))
            .collect());
    }
    let alike = |dtype: DType| {
        let products = matmul.products.iter().copied();
        products.filter(move |product| product.weight.dtype == dtype)
    };
    let groups = DType::WEIGHTS
        .into_iter()
        .map(|dtype| alike(dtype).collect());
    groups
        .filter(|products: &Vec<Product>| !products.is_empty())
        .map(|products| match matmul.kernel {
            MatmulKernel::Row => row(&products, matmul, context).map(Launch::from),
            MatmulKernel::Few => {
                few_rows::launch("PLAIN", &products, None, matmul, context).map(Launch::from)
            }
            _ => tile("PLAIN", &products, matmul, context).map(Launch::from),
        })
        .collect()
}

/// A product by the library.
fn product(product: &Product, matmul: &Matmul<'_>) -> Launch {
    let weight = product.weight;
    let whole = if matmul.half { 8 } else { 4 };
    Launch::Product {
        shape: ProductShape {
            rows: matmul.rows,
            outputs: weight.rows,
            columns: weight.cols,
            pitches: [
                weight.cols,
                (weight.row_bytes() / 2) as u32,
                weight.rows.next_multiple_of(whole),
            ],
            half: matmul.half,
            add: matmul.add,
        },
        matrices: [matmul.a, weight.into(), product.y],
    }
}

/// The launch of `silu(gate) .* up` by the tile kernel or that for few rows, of two weights of one type; what is written is the first product's, and by the
/// latter `handed` besides, as f16.
///
/// # Errors
/// None but defects.
pub(super) fn gated(
    matmul: &Matmul<'_>,
    handed: Option<Argument>,
    context: &Context,
) -> Result<Dispatch, BackendError> {
    match matmul.kernel {
        MatmulKernel::Few => few_rows::launch("GATED", matmul.products, handed, matmul, context),
        _ => tile("GATED", matmul.products, matmul, context),
    }
}

/// Some products by the row kernel. Two outputs a warp where four would leave processors idle.
fn row(
    products: &[Product],
    matmul: &Matmul<'_>,
    context: &Context,
) -> Result<Dispatch, BackendError> {
    let warps = threads("matmul_row") / WARP;
    let groups = |each: u32| -> u32 {
        let outputs = products.iter().map(|product| product.weight.rows);
        outputs.map(|all| all.div_ceil(warps * each)).sum()
    };
    let (name, outputs) = row_outputs(groups(4), context.processors);
    let (rows_name, rows) = match matmul.rows {
        0..=2 => ("2", 2),
        3..=4 => ("4", 4),
        _ => ("8", 8),
    };
    let variant = [
        ("WEIGHT", weight(products[0].weight)),
        ("ROWS", rows_name),
        ("OUTPUTS", name),
    ];
    let blocks = groups(outputs) * matmul.rows.div_ceil(rows);
    let a_pitch = products[0].weight.cols / 4;
    let arguments = arguments(products, matmul, a_pitch);
    let dispatch = dispatch("matmul_row", &variant, &arguments, [blocks, 1, 1])?;
    Ok(Dispatch {
        shared: rows * ROW_BYTES,
        ..dispatch
    })
}

/// Outputs of a warp of the row kernel, where with four there are so many blocks for the rows at a time.
fn row_outputs(blocks: u32, processors: u32) -> (&'static str, u32) {
    match 4 * blocks >= 3 * processors {
        true => ("4", 4),
        false => ("2", 2),
    }
}

/// A shape of tiles, as the kernel has it.
#[derive(Debug)]
struct Tile {
    name: &'static str,
    rows: u32,
    outputs: u32,
    /// Steps whose operands are under way.
    stages: u32,
    /// Products in a time, where the largest tile makes 100.
    speed: u64,
}

/// Larger tiles read less for each product, smaller ones leave fewer processors idle.
const TILES: [Tile; 4] = [
    tile_shape("LARGE", 256, 128, 3, 100),
    tile_shape("MEDIUM", 128, 128, 4, 85),
    tile_shape("SMALL", 64, 64, 5, 50),
    tile_shape("NARROW", 32, 64, 6, 30),
];

const fn tile_shape(name: &'static str, rows: u32, outputs: u32, stages: u32, speed: u64) -> Tile {
    Tile {
        name,
        rows,
        outputs,
        stages,
        speed,
    }
}

impl Tile {
    /// The tile with which a product takes the least time, if each processor has one at a time.
    fn select(shape: Shape, processors: u32) -> &'static Tile {
        let time = |tile: &&Tile| {
            let rows = u64::from(shape.rows.div_ceil(tile.rows));
            let tiles = rows * u64::from(shape.outputs.div_ceil(tile.outputs));
            let waves = tiles.div_ceil(u64::from(processors.max(1)));
            // In parts of a product, so that small differences count.
            waves * u64::from(tile.rows * tile.outputs) * 1000 / tile.speed
        };
        TILES.iter().min_by_key(time).unwrap_or(&TILES[0])
    }

    /// Bytes of shared memory for weights of a type: inputs and weights as f16 for each step under way; of codes, two steps as f16, and each step's
    /// two groups of an output as they are, a scale with each.
    fn shared(&self, dtype: DType) -> u32 {
        let group_bytes = match dtype {
            DType::Q4 => 16,
            _ => 32,
        };
        let weights = match dtype.group() {
            None => self.stages * self.outputs * TILE_ROW_BYTES,
            Some(_) => {
                2 * self.outputs * TILE_ROW_BYTES
                    + self.stages * self.outputs * 2 * (group_bytes + 4)
            }
        };
        self.stages * self.rows * TILE_ROW_BYTES + weights
    }
}

/// Some products by the tile kernel.
fn tile(
    form: &'static str,
    products: &[Product],
    matmul: &Matmul<'_>,
    context: &Context,
) -> Result<Dispatch, BackendError> {
    let first = products[0].weight;
    let shape = Shape {
        rows: matmul.rows,
        outputs: products.iter().map(|product| product.weight.rows).sum(),
        columns: first.cols,
        dtype: first.dtype,
    };
    let tile = Tile::select(shape, context.processors);
    let tiles: u32 = match form {
        "GATED" => first.rows.div_ceil(tile.outputs / 2),
        _ => {
            let outputs = products.iter().map(|product| product.weight.rows);
            outputs.map(|outputs| outputs.div_ceil(tile.outputs)).sum()
        }
    };
    let variant = [
        ("WEIGHT", weight(first)),
        ("TILE", tile.name),
        ("FORM", form),
    ];
    let blocks = tiles * matmul.rows.div_ceil(tile.rows);
    let arguments = arguments(products, matmul, shape.columns / 8);
    let dispatch = dispatch("matmul_tile", &variant, &arguments, [blocks, 1, 1])?;
    Ok(Dispatch {
        shared: tile.shared(shape.dtype),
        ..dispatch
    })
}

/// What kernels are passed. `a_pitch` is in 16 bytes of a row of the input.
pub(super) fn arguments(
    products: &[Product],
    matmul: &Matmul<'_>,
    a_pitch: u32,
) -> Vec<(&'static str, Argument)> {
    const NAMES: [[&str; 4]; MOST] = [
        ["weight0", "bias0", "y0", "outputs0"],
        ["weight1", "bias1", "y1", "outputs1"],
        ["weight2", "bias2", "y2", "outputs2"],
    ];
    let first = products[0].weight;
    let format = first.dtype.row_format(first.cols);
    let mut arguments = vec![
        ("a", matmul.a),
        ("count", matmul.count.into()),
        ("capacity", matmul.rows.into()),
        ("weight_pitch", ((format.row_bytes / 16) as u32).into()),
        ("scale_offset", ((format.scale_offset / 16) as u32).into()),
        ("a_pitch", a_pitch.into()),
        ("add", u32::from(matmul.add).into()),
    ];
    for (index, [weight, bias, y, outputs]) in NAMES.into_iter().enumerate() {
        let product = products.get(index);
        let absent = Argument::Absent;
        arguments.extend([
            (weight, product.map_or(absent, |p| p.weight.into())),
            (bias, product.map_or(absent, |p| p.bias.into())),
            (y, product.map_or(absent, |p| p.y)),
            (outputs, product.map_or(0, |p| p.weight.rows).into()),
        ]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use longwave_contract::BufferId;

    use super::super::Force;
    use super::*;

    fn shape(rows: u32, outputs: u32, columns: u32) -> Shape {
        Shape {
            rows,
            outputs,
            columns,
            dtype: DType::F16,
        }
    }

    #[test]
    fn the_kernel_follows_from_the_rows() {
        let (row, few, tile) = (MatmulKernel::Row, MatmulKernel::Few, MatmulKernel::Tile);
        let library = MatmulKernel::Library;
        let chosen =
            |rows, columns, there, forced| select(shape(rows, 4096, columns), there, forced);
        assert_eq!(chosen(1, 4096, true, None), Some(row));
        assert_eq!(chosen(8, 4096, true, None), Some(row));
        assert_eq!(chosen(8, 4096, false, None), Some(row));
        assert_eq!(chosen(9, 4096, true, None), Some(library));
        assert_eq!(chosen(9, 4096, false, None), Some(few));
        assert_eq!(chosen(16, 4096, false, None), Some(few));
        assert_eq!(chosen(17, 4096, false, None), Some(tile));
        assert_eq!(chosen(17, 4096, true, None), Some(library));
        assert_eq!(chosen(17, 4096, true, Some(few)), Some(tile));
        assert_eq!(chosen(1, 4096, true, Some(tile)), Some(tile));
        assert_eq!(chosen(100, 4096, true, Some(row)), Some(row));
        assert_eq!(chosen(100, 4096, false, Some(library)), Some(tile));
        assert_eq!(chosen(100, 80, true, Some(row)), None);
        let codes = Shape {
            dtype: DType::Q4,
            ..shape(100, 4096, 4096)
        };
        assert_eq!(select(codes, true, None), Some(tile));
        assert_eq!(select(Shape { rows: 8, ..codes }, true, None), Some(row));
        assert_eq!(select(Shape { rows: 9, ..codes }, true, None), Some(few));
    }

    #[test]
    fn tiles_are_large_where_they_keep_all_processors_busy() {
        let name = |rows, outputs| Tile::select(shape(rows, outputs, 4096), 132).name;
        assert_eq!(name(2048, 4096), "LARGE");
        assert_eq!(name(512, 4096), "MEDIUM");
        assert_eq!(name(64, 4096), "NARROW");
        assert_eq!(name(64, 8192), "SMALL");
        assert_eq!(name(16, 4096), "NARROW");
        assert_eq!(name(2048, 576), "MEDIUM");
    }

    #[test]
    fn tiles_fit_into_the_shared_memory_of_a_block() {
        for tile in &TILES {
            for dtype in DType::WEIGHTS {
                assert!(tile.shared(dtype) <= 163 << 10, "{tile:?} {dtype}");
            }
        }
        // As the kernel counts them.
        assert_eq!(TILES[0].shared(DType::F16), 3 * (32 + 16) * 1024);
        assert_eq!(
            TILES[0].shared(DType::Q8G16),
            (3 * 32 + 2 * 16) * 1024 + 3 * 256 * (2 * 16 + 4)
        );
    }

    #[test]
    fn warps_take_fewer_outputs_where_there_are_few() {
        assert_eq!(row_outputs(128, 132).1, 4);
        assert_eq!(row_outputs(32, 132).1, 2);
    }

    #[test]
    fn products_of_one_type_share_a_launch() {
        let buffer = BufferId(0);
        let tensor = |dtype, rows, cols| Tensor::new(buffer, dtype, rows, cols);
        let context = Context {
            capability: 90,
            processors: 132,
            shared_memory: 227 << 10,
            products: false,
            force: Force::default(),
        };
        let product = |dtype, outputs| Product {
            weight: tensor(dtype, outputs, 96),
            bias: None,
            y: tensor(DType::F32, 12, outputs).into(),
        };
        for kernel in [MatmulKernel::Row, MatmulKernel::Tile] {
            for dtype in DType::WEIGHTS {
                let other = match dtype {
                    DType::F16 => DType::Q4,
                    _ => DType::F16,
                };
                let launches = |products: &[Product]| {
                    let matmul = Matmul {
                        products,
                        a: tensor(DType::F32, 12, 96).into(),
                        count: tensor(DType::U32, 1, 1),
                        rows: 12,
                        add: false,
                        half: false,
                        kernel,
                    };
                    let found = launch(&matmul, &context).expect("a launch");
                    let grids = found.iter().filter_map(|launch| match launch {
                        Launch::Kernel(dispatch) => Some(dispatch.grid[0]),
                        Launch::Product { .. } => None,
                    });
                    grids.collect::<Vec<_>>()
                };
                let alike = [product(dtype, 640), product(dtype, 64), product(dtype, 65)];
                // Sixteen outputs a block for eight rows; 64 for 32 rows.
                let blocks = match kernel {
                    MatmulKernel::Row => 2 * (40 + 4 + 5),
                    _ => 10 + 1 + 2,
                };
                assert_eq!(launches(&alike), [blocks]);
                assert_eq!(launches(&[alike[0], product(other, 64), alike[2]]).len(), 2);
            }
        }
    }
}
