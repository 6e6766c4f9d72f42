//! Cases of `rope`.

use anyhow::Result;
use longwave_contract::Op;
use longwave_contract::kv::{PAGE, RowShape};
use longwave_contract::op::{Rope, Tokens};
use longwave_tests::latent::{Sequence, layout};
use longwave_tests::rig::{Rig, Values};

use super::Case;

#[derive(Clone, Copy)]
struct Shape {
    row: RowShape,
    sequences: &'static [Sequence],
    listed: Option<u32>,
    pitch: u32,
    first: u32,
    rows: u32,
    count: u32,
    norm: bool,
    /// Whether listed tokens are named one by one, with slots.
    misses: bool,
    /// Pages of scratch rows beyond those that are written.
    spare_pages: u32,
}

pub(super) fn cases() -> Vec<Case> {
    let row = |kv_heads, head_dim| RowShape { kv_heads, head_dim };
    let base = Shape {
        row: row(1, 64),
        sequences: &[(0, 1, 0, 0)],
        listed: None,
        pitch: 1,
        first: 0,
        rows: 1,
        count: 1,
        norm: false,
        misses: false,
        spare_pages: 1,
    };
    let lists = Shape {
        row: row(2, 64),
        sequences: &[(4, 9, 5, 31), (0, 3, 7, 40)],
        listed: Some(41),
        pitch: 45,
        rows: 90,
        count: 86,
        ..base
    };
    [
        ("one row", base),
        (
            "a sequence",
            Shape {
                row: row(3, 128),
                sequences: &[(8, 2, 20, 0)],
                pitch: 300,
                first: 20,
                rows: 270,
                count: 260,
                ..base
            },
        ),
        (
            "more heads than workgroups of an axis",
            Shape {
                sequences: &[(0, 260, 0, 0)],
                pitch: 33_280,
                rows: 33_000,
                count: 32_999,
                ..base
            },
        ),
        ("lists", lists),
        (
            "lists and a norm",
            Shape {
                norm: true,
                ..lists
            },
        ),
        (
            "lists, a norm, many scratch rows",
            Shape {
                norm: true,
                spare_pages: 24,
                ..lists
            },
        ),
        (
            "misses",
            Shape {
                first: 7,
                rows: 60,
                count: 51,
                misses: true,
                spare_pages: 3,
                ..lists
            },
        ),
        (
            "misses in several slabs",
            Shape {
                rows: 60,
                count: 60,
                norm: true,
                misses: true,
                spare_pages: 40,
                ..lists
            },
        ),
        (
            "rows over several slabs",
            Shape {
                sequences: &[(8, 3, 20, 0), (1, 2, 3, 0)],
                pitch: 420,
                first: 100,
                rows: 30,
                count: 30,
                spare_pages: 24,
                ..base
            },
        ),
        (
            "few rows, many scratch rows",
            Shape {
                row: row(4, 64),
                sequences: &[(8, 3, 20, 0), (1, 2, 3, 0)],
                pitch: 420,
                first: 400,
                rows: 40,
                count: 40,
                spare_pages: 60,
                ..base
            },
        ),
    ]
    .into_iter()
    .map(|(name, shape)| Case::new(name, move |rig| build(rig, shape)))
    .collect()
}

fn build(rig: &mut Rig, shape: Shape) -> Result<Op> {
    let layout = layout(rig, shape.sequences);
    let most = layout.stores.iter().map(|store| store.length).max();
    let pages = (shape.first + shape.rows).div_ceil(PAGE) + shape.spare_pages;
    Ok(Rope {
        x: rig.f32(shape.rows, shape.row.cols(), Values::Peaked)?,
        tokens: match shape.listed {
            Some(_) if shape.misses => {
                Tokens::Missing(layout.misses(rig, pages * PAGE, shape.first + shape.rows)?)
            }
            Some(most) => Tokens::Listed(layout.tokens(rig, most)?),
            None => Tokens::All,
        },
        stores: layout.stores(rig)?,
        count: rig.count(shape.count)?,
        pitch: shape.pitch,
        first: shape.first,
        k_norm: if shape.norm {
            Some(rig.norm(shape.row.head_dim)?)
        } else {
            None
        },
        epsilon: 1e-5,
        rope: rig.rope_table(shape.row.head_dim, most.unwrap_or(1))?,
        shape: shape.row,
        kv: rig.cache(shape.row, pages, &[], Values::Flat)?,
    }
    .into())
}
