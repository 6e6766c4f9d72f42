//! Cases of `attend_stored`.

use std::sync::Arc;

use anyhow::Result;
use longwave_contract::kv::{LatentShape, RowDesc, RowShape, ScaleRule};
use longwave_contract::op::AttendStored;
use longwave_contract::{Backend, Op};
use longwave_tests::latent::{Sequence, layout, plain};
use longwave_tests::rig::{Rig, Values};

use super::Case;

#[derive(Clone, Copy)]
struct Shape {
    heads: u32,
    row: RowShape,
    bits: u32,
    /// Sinks, blocks and tail of each.
    sequences: &'static [Sequence],
    /// The rows: a sequence each, and how many of its last tokens it does not see.
    rows: &'static [(u32, u32)],
    /// Rows that do not count.
    spare: u32,
    norm: bool,
    /// What scales of codes are of.
    size: f32,
}

/// The backend, where it serves the op.
pub(super) fn served(subject: Arc<dyn Backend>) -> Result<Arc<dyn Backend>, String> {
    match subject.caps().stored_heads {
        [] => Err("its tokens are restored for attend".into()),
        _ => Ok(subject),
    }
}

pub(super) fn cases() -> Vec<Case> {
    let row = |kv_heads, head_dim| RowShape { kv_heads, head_dim };
    let base = Shape {
        heads: 8,
        row: row(2, 128),
        bits: 8,
        sequences: &[(8, 2, 131, 0)],
        rows: &[(0, 0)],
        spare: 0,
        norm: false,
        size: 0.02,
    };
    let many = Shape {
        sequences: &[
            (8, 3, 129, 0),
            (0, 1, 1, 0),
            (4, 0, 40, 0),
            (33, 18, 200, 0),
        ],
        rows: &[(3, 0), (0, 0), (2, 0), (1, 0), (3, 0)],
        spare: 2,
        ..base
    };
    let shapes = [
        ("sinks, blocks, a tail", base),
        ("many sequences", many),
        (
            "one block, one raw token",
            Shape {
                sequences: &[(0, 1, 1, 0)],
                ..base
            },
        ),
        (
            "only raw tokens",
            Shape {
                sequences: &[(8, 0, 33, 0)],
                ..base
            },
        ),
        (
            "one token",
            Shape {
                sequences: &[(8, 0, 0, 0)],
                rows: &[(0, 7)],
                ..base
            },
        ),
        (
            "rows within a block, and within sinks",
            Shape {
                rows: &[(0, 140), (0, 131), (0, 386), (0, 270)],
                ..base
            },
        ),
        (
            "a long sequence",
            Shape {
                sequences: &[(8, 65, 140, 0)],
                ..base
            },
        ),
        (
            "many long sequences",
            Shape {
                sequences: &[(8, 40, 140, 0); 16],
                rows: &[(3, 0); 16],
                ..base
            },
        ),
        ("a norm", Shape { norm: true, ..many }),
        ("seven heads on one", Shape { heads: 14, ..many }),
        (
            "three heads on one",
            Shape {
                heads: 9,
                row: row(3, 128),
                ..many
            },
        ),
        (
            "sixteen heads on one",
            Shape {
                heads: 16,
                row: row(1, 128),
                norm: true,
                ..base
            },
        ),
        (
            "heads of 64",
            Shape {
                heads: 9,
                row: row(3, 64),
                ..many
            },
        ),
        (
            "heads of 64, a norm, eight on one",
            Shape {
                row: row(1, 64),
                norm: true,
                ..many
            },
        ),
        ("peaked scores", Shape { size: 0.1, ..many }),
    ];
    let each = |(name, shape): (&str, Shape)| {
        [(8, 1.0), (4, 16.0)].map(|(bits, more)| {
            let shape = Shape {
                bits,
                size: shape.size * more,
                ..shape
            };
            Case::new(format!("{name}, {bits} bits"), move |rig| build(rig, shape))
        })
    };
    shapes.into_iter().flat_map(each).collect()
}

fn build(rig: &mut Rig, shape: Shape) -> Result<Op> {
    let row = shape.row;
    let cols = row.cols();
    let latent = LatentShape {
        code_bits: shape.bits * cols,
        exact_f16: true,
        ..plain(cols, cols, ScaleRule::Symmetric, AttendStored::GROUP)
    };
    let layout = layout(rig, shape.sequences);
    let describe = |&(sequence, unseen): &(u32, u32)| RowDesc {
        view: sequence,
        position: layout.stores[sequence as usize].length - 1 - unseen,
        ..RowDesc::default()
    };
    let mut rows: Vec<RowDesc> = shape.rows.iter().map(describe).collect();
    let count = rows.len() as u32;
    rows.resize((count + shape.spare) as usize, RowDesc::default());
    let n = rows.len() as u32;
    let longest = layout.stores.iter().map(|store| store.length).max();
    let longest = longest.unwrap_or(1);
    let width = shape.heads * row.head_dim;
    Ok(AttendStored {
        q: rig.f32(n, width, Values::Flat)?,
        rows: rig.rows(&rows)?,
        count: rig.count(count)?,
        stores: layout.stores(rig)?,
        entries: rig.entries(&layout.entries)?,
        raw: rig.cache(row, layout.pages, &layout.used, Values::Flat)?,
        mean: rig.f32(1, cols, Values::Flat)?,
        latent,
        latents: layout.coded(rig, &latent, shape.size)?,
        k_norm: match shape.norm {
            true => Some(rig.norm(row.head_dim)?),
            false => None,
        },
        epsilon: 1e-5,
        rope: rig.rope_table(row.head_dim, longest)?,
        shape: row,
        scale: 1.0 / (row.head_dim as f32).sqrt(),
        longest: longest.next_power_of_two(),
        out: rig.f32(n, width, Values::Flat)?,
    }
    .into())
}
