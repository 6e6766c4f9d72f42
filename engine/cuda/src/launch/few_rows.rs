//! Products with 2 to 16 rows, of sequences that decode together: weights stream through tensor cores as those of one row do through their kernel. Inputs
//! that find no room in shared memory are cut into slices of columns, which several blocks have.

use longwave_contract::{BackendError, DType};

use super::matmul::{Matmul, Product, arguments};
use super::{Argument, Context, Dispatch, dispatch, threads, weight};

/// Rows at most.
pub(super) const ROWS: u32 = 16;
/// Weight rows of a tile, and the bytes of its sums for a row, of all eight warps for two tiles.
const TILE: u32 = 16;
const SUMS: u32 = 2 * 8 * (TILE + 4) * 4;
/// Octets between two rows of the input.
const GAP: u32 = 4;
/// What a tile's sums, and the last of several blocks' merge of those, take: as long as so many steps of a tile.
const SUM: u32 = 3;
const MERGE: u32 = 22;
/// Groups of blocks of which arrivals are counted: as many as `part/arrive.cuh` has.
const PLACES: u32 = 4096;

/// How weights of a type stream, as the kernel has it.
struct Format {
    /// Chunks of a row in a step, and octets of columns.
    step_chunks: u32,
    step_octets: u32,
    /// Bytes of shared memory that a thread's weights under way take.
    under_way: u32,
}

fn format(dtype: DType) -> Format {
    let (chunks, octets, stages) = match dtype {
        DType::Q4 => (1, 4, 6),
        DType::Q8G32 | DType::Q8G16 | DType::Q8G32M => (2, 2, 3),
        DType::F16 | DType::F32 | DType::U32 => (2, 1, 4),
    };
    let scale = if dtype.group().is_some() { 4 } else { 0 };
    Format {
        step_chunks: 4 * chunks,
        step_octets: 4 * chunks * octets,
        under_way: stages * 2 * chunks * (16 + scale),
    }
}

/// How a launch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Slices of columns.
    slices: u32,
    /// Blocks that have the same slice.
    groups: u32,
    /// Bytes of shared memory.
    shared: u32,
}

/// Shared memory of a block that a device has at least.
fn limit(capability: u32) -> u32 {
    match capability {
        90..120 => 220 << 10,
        80 | 87 => 160 << 10,
        _ => 96 << 10,
    }
}

/// The cut that is done soonest: a block's tiles and steps, the input that it stages, and sums of slices.
fn cut(dtype: DType, chunks: u32, tiles: u32, rows: u32, context: &Context) -> Cut {
    let format = format(dtype);
    let steps = chunks.div_ceil(format.step_chunks);
    let processors = context.processors.max(1);
    let fixed = format.under_way * threads("matmul_few") + rows * SUMS;
    let of = |slices: u32| {
        let slice = steps.div_ceil(slices);
        let groups = (processors / slices).clamp(1, tiles.clamp(1, PLACES));
        let cut = Cut {
            slices,
            groups,
            shared: fixed + rows * (slice * format.step_octets + GAP) * 16,
        };
        let merge = if slices > 1 { MERGE } else { 0 };
        (
            cut,
            tiles.div_ceil(groups) * (slice + SUM) + slice * rows / 32 + merge,
        )
    };
    let fits = |(cut, _): &(Cut, u32)| cut.shared <= limit(context.capability);
    // With as many slices as steps, any input fits.
    let all = (1..=steps.max(1)).map(of);
    let best = all.filter(fits).min_by_key(|(_, time)| *time);
    best.unwrap_or_else(|| of(steps.max(1))).0
}

/// The launch of some products of weights of one type, or with `form` GATED of `silu(gate) .* up` into the first's output, and as f16 into `half_out`.
///
/// # Errors
/// None but defects.
pub(super) fn launch(
    form: &'static str,
    products: &[Product],
    half_out: Option<Argument>,
    matmul: &Matmul<'_>,
    context: &Context,
) -> Result<Dispatch, BackendError> {
    let first = products[0].weight;
    let (rows_name, rows) = match matmul.rows {
        0..=8 => ("8", 8),
        _ => ("16", ROWS),
    };
    let gated = form == "GATED";
    let outputs = if gated { TILE / 2 } else { TILE };
    let tiles = match gated {
        true => first.rows.div_ceil(outputs),
        false => {
            let all = products.iter().map(|product| product.weight.rows);
            all.map(|all| all.div_ceil(outputs)).sum()
        }
    };
    let chunks = (first.dtype.row_format(first.cols).scale_offset / 16) as u32;
    let cut = cut(first.dtype, chunks, tiles, rows, context);
    let sums = match cut.slices {
        1 => Argument::Absent,
        slices => Argument::Scratch {
            index: SLICES,
            bytes: 8 * u64::from(tiles) * u64::from(slices) * u64::from(rows * outputs),
        },
    };
    let mut given = arguments(products, matmul, first.cols / 8);
    given.retain(|(name, _)| *name != "scale_offset");
    given.extend([
        ("half_out", half_out.unwrap_or(Argument::Absent)),
        ("sums", sums),
        ("chunks", chunks.into()),
        ("slices", cut.slices.into()),
    ]);
    let variant = [
        ("WEIGHT", weight(first)),
        ("ROWS", rows_name),
        ("FORM", form),
    ];
    let blocks = cut.groups * cut.slices;
    let launch = dispatch("matmul_few", &variant, &given, [blocks, 1, 1])?;
    Ok(Dispatch {
        shared: cut.shared,
        ..launch
    })
}

/// The number of the scratch buffer of slices' sums.
const SLICES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Force;

    fn context(capability: u32) -> Context {
        Context {
            capability,
            processors: 132,
            shared_memory: 227 << 10,
            products: true,
            force: Force::default(),
        }
    }

    #[test]
    fn inputs_that_fit_are_not_cut() {
        // Llama-3.1-8B: gate and up, o, down, down of eight rows.
        let of = |columns: u32, tiles, rows| {
            let cut = cut(DType::F16, columns / 8, tiles, rows, &context(90));
            (cut.slices, cut.groups)
        };
        assert_eq!(of(4096, 1792, 16), (1, 132));
        assert_eq!(of(4096, 256, 16), (1, 132));
        assert_eq!(of(4096, 256, 8), (1, 132));
        assert!(of(14_336, 256, 16).0 >= 4);
        assert_eq!(of(576, 36, 8), (1, 36));
    }

    #[test]
    fn cuts_fit_and_leave_no_block_without_work() {
        for capability in [80, 86, 90] {
            for dtype in DType::WEIGHTS {
                for (columns, tiles) in
                    [(32, 1), (96, 40), (4096, 384), (14_336, 256), (28_672, 512)]
                {
                    for rows in [8, 16] {
                        let format = dtype.row_format(columns);
                        let chunks = (format.scale_offset / 16) as u32;
                        let cut = cut(dtype, chunks, tiles, rows, &context(capability));
                        assert!(cut.shared <= limit(capability), "{dtype} {columns} {cut:?}");
                        assert!(cut.groups <= tiles && (cut.groups - 1) * cut.slices < 132);
                    }
                }
            }
        }
    }
}
