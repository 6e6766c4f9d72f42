//! `restore`: the latents as f16, then the product with everything before and after it in tiles of rows and heads, for what is missing both beside the
//! step's other launches, and then raw tokens; or, for shapes that those kernels
//! do not take, the launches of the op's parts with working memory between them.

use longwave_contract::op::{Restore, Tokens};
use longwave_contract::{BackendError, BufferId, DType, Op};

use super::latent::{latent_dispatch, naming, rule};
use super::{Argument, Context, Dispatch, Launch, dispatch};

/// Columns of a tile, and rows of the smallest.
const COLUMNS: u32 = 128;
const PASS: u32 = 32;
/// Blocks of `restore_latents` that a multiprocessor holds.
const RESIDENT: u32 = 16;
/// The number of the scratch buffer of latents.
const LATENTS: usize = 8;
/// Columns of which products take whole multiples.
const STEP: u32 = 32;
/// Working memory of the parts, which no op among them names: latents, and rows.
const WORKING: [(BufferId, usize); 2] = [(BufferId(u32::MAX - 1), 6), (BufferId(u32::MAX), 7)];

/// Rows of the largest tile, and steps of 64 columns that are under way.
#[derive(Clone, Copy, Debug)]
struct Room {
    rows: u32,
    steps: u32,
}

impl Room {
    /// All of a multiprocessor; or what leaves room beside it.
    const ALONE: Room = Room {
        rows: 128,
        steps: 4,
    };
    const BESIDE: Room = Room { rows: 64, steps: 3 };

    /// Bytes of shared memory: f16 of a tile's rows and of the decoder.
    const fn shared(self) -> u32 {
        self.steps * (self.rows + COLUMNS) * 128
    }
}

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
    fn new(rows: u32, heads: u32, head_dim: u32, room: Room, processors: u32) -> Self {
        let each = (COLUMNS / head_dim).clamp(1, heads);
        let across = heads.div_ceil(each);
        let bands = (processors / across).max(1);
        let down = bands.max(rows.div_ceil(room.rows)).min(rows.div_ceil(PASS));
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
    let mut dispatches = vec![latents(op, context)?, rows(op, context)?];
    if is_split(op) {
        for dispatch in &mut dispatches {
            dispatch.beside = true;
        }
        dispatches.push(raw(op, context)?);
    }
    Ok(dispatches.into_iter().map(Launch::from).collect())
}

/// Whether tokens in blocks are restored apart from raw ones: of what is missing in a step's layer only the newest token's row comes about in that
/// layer, so that all others need not wait for it. Blocks, and the sinks that they refer to, are there before.
fn is_split(op: &Restore) -> bool {
    matches!(op.tokens, Tokens::Missing(_))
}

/// Latents as f16 in working memory, which no other op's launches use.
fn working(op: &Restore) -> Argument {
    Argument::Scratch {
        index: LATENTS,
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
    let room = match is_split(op) {
        true => Room::BESIDE,
        false => Room::ALONE,
    };
    let tiles = Tiles::new(op.rows, heads, head_dim, room, context.processors);
    let raw = match is_split(op) {
        true => Argument::Settled(op.raw),
        false => op.raw.into(),
    };
    let more = [
        ("raw", raw),
        ("blocks_only", u32::from(is_split(op)).into()),
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
        shared: room.shared(),
        ..rows
    })
}

/// The raw tokens among those that are missing, a block for some of them.
fn raw(op: &Restore, context: &Context) -> Result<Dispatch, BackendError> {
    let (heads, head_dim) = (2 * op.shape.kv_heads, op.shape.head_dim);
    let given = [
        ("tokens", op.tokens.tensor().into()),
        ("stores", op.stores.into()),
        ("entries", op.entries.into()),
        ("count", op.count.into()),
        ("raw", op.raw.into()),
        ("norm", op.k_norm.into()),
        ("table", op.rope.into()),
        ("kv", op.kv.into()),
        ("capacity", op.rows.into()),
        ("first", op.first.into()),
        ("heads", heads.into()),
        ("head_dim", head_dim.into()),
        ("table_rows", op.rope.rows.into()),
        ("rope_pitch", head_dim.into()),
        ("kv_pitch", ((op.shape.raw_bytes() / 2) as u32).into()),
        ("slots", op.kv.rows.into()),
        ("epsilon", op.epsilon.into()),
    ];
    let blocks = context.processors.min(op.rows).max(1);
    dispatch("restore_raw", &[], &given, [blocks, 1, 1])
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
        let shapes = [(1, 2, 64), (33, 16, 128), (2200, 16, 128), (4096, 6, 96)];
        let rooms = [Room::ALONE, Room::BESIDE];
        for ((rows, heads, head_dim), room) in shapes
            .into_iter()
            .flat_map(|shape| rooms.map(|room| (shape, room)))
        {
            let tiles = Tiles::new(rows, heads, head_dim, room, 132);
            let across = heads.div_ceil(tiles.heads);
            // As the kernel counts them.
            let down = |count: u32| {
                let tile = count.div_ceil(tiles.bands).max(1).next_multiple_of(PASS);
                count.div_ceil(tile.min(room.rows))
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
        let tiles = |heads, head_dim| Tiles::new(2200, heads, head_dim, Room::ALONE, 132);
        let (one, two) = (tiles(16, 128), tiles(6, 64));
        assert_eq!((one.heads, one.bands, one.all), (1, 8, 16 * 18));
        assert_eq!((two.heads, two.bands, two.all), (2, 44, 3 * 44));
        assert_eq!(tiles(2, 32).heads, 2);
        assert_eq!(tiles(8, 96).heads, 1);
    }
}
