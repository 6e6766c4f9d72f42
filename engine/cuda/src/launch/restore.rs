//! `restore`: the latents as f16, then the product with everything before and after it in tiles of rows and heads; or, for shapes that those kernels
//! do not take, the launches of the op's parts with working memory between them.

use longwave_contract::op::Restore;
use longwave_contract::{BackendError, BufferId, DType, Op};

use super::latent::{latent_dispatch, naming, rule};
use super::{Argument, Context, Dispatch, Launch};

/// Columns of a tile, and rows of the largest and the smallest.
const COLUMNS: u32 = 128;
const ROWS: u32 = 128;
const PASS: u32 = 32;
/// Bytes of shared memory of a tile: four steps of 64 columns of f16 of its rows and of the decoder.
const SHARED: u32 = 4 * (ROWS + COLUMNS) * 128;
/// Blocks of `restore_latents` that a multiprocessor holds.
const RESIDENT: u32 = 16;
/// Columns of which products take whole multiples.
const STEP: u32 = 32;
/// Working memory of the parts, which no op among them names: latents, and rows.
const WORKING: [(BufferId, usize); 2] = [(BufferId(u32::MAX - 1), 6), (BufferId(u32::MAX), 7)];

/// Tiles of rows and columns.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tiles {
    /// Heads of a tile.
    heads: u32,
    /// Tiles of rows that keep the device busy.
    bands: u32,
    /// Tiles of both.
    all: u32,
}

impl Tiles {
    /// The tiles of so many rows of heads, keys' and values'. The kernel makes tiles of as few rows as keep the processors busy.
    fn new(rows: u32, heads: u32, head_dim: u32, processors: u32) -> Self {
        let each = (COLUMNS / head_dim).clamp(1, heads);
        let across = heads.div_ceil(each);
        let bands = (processors / across).max(1);
        let down = bands.max(rows.div_ceil(ROWS)).min(rows.div_ceil(PASS));
        Tiles {
            heads: each,
            bands,
            all: across * down,
        }
    }
}

/// Whether the kernels take an op's shapes.
fn serves(op: &Restore) -> bool {
    let head_dim = op.shape.head_dim;
    let decoder = op.decoder.map(|decoder| decoder.dtype);
    decoder == Some(DType::F16)
        && op.latent.rank.is_multiple_of(STEP)
        && head_dim.is_multiple_of(8)
        && head_dim <= COLUMNS
}

/// # Errors
/// As the op's parts, where the kernels do not take its shapes.
pub(super) fn launch(op: &Restore, context: &Context) -> Result<Vec<Launch>, BackendError> {
    if context.force.matmul.is_some() || !serves(op) {
        return parts(op, context);
    }
    let dispatches = [latents(op, context)?, rows(op, context)?];
    Ok(dispatches.into_iter().map(Launch::from).collect())
}

/// Latents as f16 in working memory.
fn working(op: &Restore) -> Argument {
    Argument::Scratch {
        index: 0,
        bytes: 2 * u64::from(op.rows) * u64::from(op.latent.rank),
    }
}

/// What both kernels are passed.
fn shared(op: &Restore) -> [(&'static str, Argument); 10] {
    let (_, tokens_pitch) = naming(op.tokens);
    [
        ("tokens", op.tokens.tensor().into()),
        ("stores", op.stores.into()),
        ("entries", op.entries.into()),
        ("count", op.count.into()),
        ("latents", op.latents.into()),
        ("z", working(op)),
        ("capacity", op.rows.into()),
        ("first", op.first.into()),
        ("pitch", op.pitch.into()),
        ("tokens_pitch", tokens_pitch.into()),
    ]
}

fn latents(op: &Restore, context: &Context) -> Result<Dispatch, BackendError> {
    let (naming, _) = naming(op.tokens);
    let variant = [("NAMING", naming), ("RULE", rule(&op.latent))];
    let grid = op.rows.min(RESIDENT * context.processors).max(1);
    let components = ("components", op.components.into());
    let given = [&shared(op)[..], &[components]].concat();
    latent_dispatch("restore_latents", &variant, &op.latent, &given, grid)
}

fn rows(op: &Restore, context: &Context) -> Result<Dispatch, BackendError> {
    let (naming, _) = naming(op.tokens);
    let (heads, head_dim) = (2 * op.shape.kv_heads, op.shape.head_dim);
    let tiles = Tiles::new(op.rows, heads, head_dim, context.processors);
    let more = [
        ("raw", op.raw.into()),
        ("mean", op.mean.into()),
        ("mean_rows", op.mean.rows.into()),
        ("decoder", op.decoder.into()),
        ("octets", (op.latent.rank / 8).into()),
        ("norm", op.k_norm.into()),
        ("epsilon", op.epsilon.into()),
        ("table", op.rope.into()),
        ("table_rows", op.rope.rows.into()),
        ("rope_pitch", head_dim.into()),
        ("heads", heads.into()),
        ("head_dim", head_dim.into()),
        ("tile_heads", tiles.heads.into()),
        ("bands", tiles.bands.into()),
        ("kv", op.kv.into()),
        ("kv_pitch", ((op.shape.raw_bytes() / 2) as u32).into()),
        ("slots", op.kv.rows.into()),
    ];
    let given = [&shared(op)[..], &more].concat();
    let variant = [("NAMING", naming)];
    let rows = latent_dispatch("restore_rows", &variant, &op.latent, &given, tiles.all)?;
    Ok(Dispatch {
        shared: SHARED,
        ..rows
    })
}

/// The launches of the op's parts.
fn parts(op: &Restore, context: &Context) -> Result<Vec<Launch>, BackendError> {
    let [(z, _), (x, _)] = WORKING;
    let (unpack, product, rope) = op.parts(z, x);
    let ops = [
        Some(Op::from(unpack)),
        product.map(Op::from),
        Some(rope.into()),
    ];
    let mut launches = Vec::new();
    for part in ops.iter().flatten() {
        launches.extend(super::launch(part, context)?);
    }
    let arguments = launches.iter_mut().flat_map(|launch| match launch {
        Launch::Kernel(dispatch) => &mut dispatch.arguments[..],
        Launch::Product { matrices, .. } => matrices,
    });
    for argument in arguments {
        let Argument::Tensor(tensor) = *argument else {
            continue;
        };
        let known = WORKING.iter().find(|(buffer, _)| *buffer == tensor.buffer);
        if let Some(&(_, index)) = known {
            *argument = Argument::Scratch {
                index,
                bytes: tensor.bytes(),
            };
        }
    }
    Ok(launches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_tiles_for_every_count_of_rows() {
        for (rows, heads, head_dim) in [(1, 2, 64), (33, 16, 128), (2200, 16, 128), (4096, 6, 96)] {
            let tiles = Tiles::new(rows, heads, head_dim, 132);
            let across = heads.div_ceil(tiles.heads);
            // As the kernel counts them.
            let down = |count: u32| {
                let tile = count.div_ceil(tiles.bands).max(1).next_multiple_of(PASS);
                count.div_ceil(tile.min(ROWS))
            };
            let most = (1..=rows).map(down).max();
            assert!(
                most.is_some_and(|most| most * across <= tiles.all),
                "{rows}"
            );
        }
    }

    #[test]
    fn heads_fit_into_tiles() {
        let tiles = |heads, head_dim| Tiles::new(2200, heads, head_dim, 132);
        let (one, two) = (tiles(16, 128), tiles(6, 64));
        assert_eq!((one.heads, one.bands, one.all), (1, 8, 16 * 18));
        assert_eq!((two.heads, two.bands, two.all), (2, 44, 3 * 44));
        assert_eq!(tiles(2, 32).heads, 2);
        assert_eq!(tiles(8, 96).heads, 1);
    }
}
