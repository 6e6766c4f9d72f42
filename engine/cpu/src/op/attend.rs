use std::ops::Range;

use longwave_contract::BackendError;
use longwave_contract::op::Attend;
use rayon::prelude::*;

use super::{descriptor, view};
use crate::error::misfit;
use crate::memory::Memory;
use crate::plan::Kernel;
use crate::row::Matrix;

mod stream;
mod tile;

/// Rows of one view from which on a tile is worth its packing.
const TILE_ROWS: usize = 4;
/// Query vectors that a tile aims at: their rows share each cache row's conversion.
const TILE_QUERIES: usize = 192;

/// The kernel for a recording's capacity.
pub(super) fn select(op: &Attend) -> Kernel {
    if (op.q.rows as usize) < TILE_ROWS {
        Kernel::Stream
    } else {
        Kernel::Tile
    }
}

/// What both kernels need of the op.
#[derive(Clone, Copy)]
struct Setting<'a> {
    /// Query vectors, row after row without padding.
    q: &'a [f32],
    kv: Matrix<'a>,
    kv_heads: usize,
    /// Query heads for each key head.
    group: usize,
    dim: usize,
    scale: f32,
}

impl<'a> Setting<'a> {
    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// The query of a head of a row.
    fn query(&self, row: usize, head: usize) -> &'a [f32] {
        &self.q[(row * self.heads() + head) * self.dim..][..self.dim]
    }
}

/// Consecutive rows that share a view.
struct Share {
    rows: Range<usize>,
    /// How many tokens each of the rows sees.
    visible: Vec<usize>,
    /// The slots of all tokens that any of them sees.
    slots: Vec<u32>,
}

/// See [`Attend`].
pub(super) fn run(op: &Attend, kernel: Kernel, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| {
        let count = memory.count(Attend::NAME, op.count, op.q.rows)?;
        let q = memory.matrix(op.q)?.gather(count);
        let setting = Setting {
            q: &q,
            kv: memory.matrix(op.kv)?,
            kv_heads: op.shape.kv_heads as usize,
            group: (op.q.cols / op.shape.width()) as usize,
            dim: op.shape.head_dim as usize,
            scale: op.scale,
        };
        let shares = shares(op, memory, count)?;
        let width = op.out.cols as usize;
        let mut result = vec![0.0f32; count * width];
        let (tiled, streamed): (Vec<&Share>, Vec<&Share>) = shares
            .iter()
            .partition(|share| kernel == Kernel::Tile && share.rows.len() >= TILE_ROWS);
        stream(setting, &streamed, &mut result);
        tile(setting, &tiled, &mut result);
        out.for_each_row(count, |row, out| {
            out.copy_from_slice(&result[row * width..][..width]);
        });
        Ok(())
    })
}

/// Cuts what each row sees into segments, and merges their means in order.
fn stream(setting: Setting<'_>, shares: &[&Share], result: &mut [f32]) {
    let mut segments = Vec::new();
    for share in shares {
        for (row, &visible) in share.rows.clone().zip(&share.visible) {
            let slots = share.slots[..visible].chunks(stream::SEGMENT);
            segments.extend(slots.map(|slots| stream::Segment {
                setting,
                row,
                slots,
            }));
        }
    }
    let partials: Vec<(usize, stream::Partial)> = segments
        .into_par_iter()
        .map(|segment| (segment.row, pulp::Arch::new().dispatch(segment)))
        .collect();
    let width = setting.heads() * setting.dim;
    for partials in partials.chunk_by(|a, b| a.0 == b.0) {
        if let [(row, _), ..] = partials {
            let out = &mut result[row * width..][..width];
            stream::merge(setting, partials.iter().map(|(_, partial)| partial), out);
        }
    }
}

/// Cuts each share into tiles of rows, each for one key head.
fn tile(setting: Setting<'_>, shares: &[&Share], result: &mut [f32]) {
    let mut tiles = Vec::new();
    let rows_per_tile = (TILE_QUERIES / setting.group).max(1);
    for share in shares {
        let starts = share.rows.clone().step_by(rows_per_tile);
        for (first, visible) in starts.zip(share.visible.chunks(rows_per_tile)) {
            tiles.extend((0..setting.kv_heads).map(|kv_head| tile::Rows {
                setting,
                first,
                visible,
                slots: &share.slots,
                kv_head,
            }));
        }
    }
    // The last tiles of a chunk see most; begun first, they do not end last.
    let done: Vec<(usize, usize, Vec<f32>)> = tiles
        .into_par_iter()
        .rev()
        .with_max_len(1)
        .map(|tile| (tile.first, tile.kv_head, pulp::Arch::new().dispatch(tile)))
        .collect();
    let (width, part) = (setting.heads() * setting.dim, setting.group * setting.dim);
    for (first, kv_head, values) in done {
        for (row, values) in values.chunks_exact(part).enumerate() {
            result[(first + row) * width + kv_head * part..][..part].copy_from_slice(values);
        }
    }
}

/// Groups the rows that count by view and resolves each view's entries.
fn shares(op: &Attend, memory: &Memory, count: usize) -> Result<Vec<Share>, BackendError> {
    let rows = memory.matrix(op.rows)?;
    let views = memory.matrix(op.views)?;
    let entries = memory.matrix(op.entries)?.u32s(0);
    let descriptors: Vec<_> = (0..count).map(|row| descriptor(&rows, row)).collect();
    let mut shares = Vec::new();
    let mut first = 0;
    for alike in descriptors.chunk_by(|a, b| a.view == b.view) {
        let index = alike.first().map_or(0, |row| row.view);
        if index as usize >= views.rows() {
            let expected = format_args!("a view below {} in row {first}", views.rows());
            return Err(misfit(Attend::NAME, "rows", expected, index));
        }
        let view = view::descriptor(&views, index as usize);
        let visible = alike.iter().map(|row| view.visible(row.position) as usize);
        let visible: Vec<usize> = visible.collect();
        let most = visible.iter().copied().max().unwrap_or(0);
        if most > op.longest as usize {
            let expected = format_args!("at most {} visible tokens of view {index}", op.longest);
            return Err(misfit(Attend::NAME, "longest", expected, most));
        }
        shares.push(Share {
            rows: first..first + alike.len(),
            visible,
            slots: view::slots(Attend::NAME, &view, index, most, entries, op.kv.rows)?,
        });
        first += alike.len();
    }
    Ok(shares)
}
