//! Cases of `observe`.

use anyhow::Result;
use longwave_contract::Op;
use longwave_contract::kv::{Entry, PAGE, PickDesc, RowDesc, RowShape, Slot, ViewDesc};
use longwave_contract::op::Observe;
use longwave_tests::rig::{Rig, Values, raw};

use super::Case;

#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Tokens of each pick's sequence, and its candidates: all but sinks and tail.
    pub lengths: &'static [u32],
    pub sinks: u32,
    pub tail: u32,
    pub values: Values,
}

/// Lengths of picks: no candidates, one, those of a page and around it, and several pages.
const LENGTHS: &[u32] = &[11, 12, 42, 43, 44, 300, 1027];

/// Lengths of picks whose candidates are one, and as many as a workgroup or two take and around that: 64 and 128.
const WORKGROUPS: &[u32] = &[
    12,
    11 + 63,
    11 + 64,
    11 + 65,
    11 + 127,
    11 + 128,
    11 + 129,
    11 + 255,
    11 + 256,
    11 + 257,
];

pub(super) fn cases() -> Vec<Case> {
    let plain = Shape {
        heads: 4,
        kv_heads: 4,
        head_dim: 64,
        lengths: LENGTHS,
        sinks: 8,
        tail: 3,
        values: Values::Flat,
    };
    [
        ("one head for each", plain),
        (
            "9 heads on 3 of 64",
            Shape {
                heads: 9,
                kv_heads: 3,
                ..plain
            },
        ),
        (
            "14 heads on 2 of 64",
            Shape {
                heads: 14,
                kv_heads: 2,
                ..plain
            },
        ),
        (
            "8 heads on 1 of 128",
            Shape {
                heads: 8,
                kv_heads: 1,
                head_dim: 128,
                ..plain
            },
        ),
        (
            "candidates of a workgroup and around",
            Shape {
                lengths: WORKGROUPS,
                ..plain
            },
        ),
        (
            "3 heads on 1 of 80",
            Shape {
                heads: 3,
                kv_heads: 1,
                head_dim: 80,
                lengths: WORKGROUPS,
                ..plain
            },
        ),
        (
            "12 heads on 3 of 128",
            Shape {
                heads: 12,
                kv_heads: 3,
                head_dim: 128,
                lengths: WORKGROUPS,
                ..plain
            },
        ),
        (
            "7 heads on 1 of 256",
            Shape {
                heads: 7,
                kv_heads: 1,
                head_dim: 256,
                lengths: WORKGROUPS,
                ..plain
            },
        ),
        (
            "2 heads on 2 of 512",
            Shape {
                heads: 2,
                kv_heads: 2,
                head_dim: 512,
                lengths: &[300, 12],
                ..plain
            },
        ),
        (
            "3 heads on 3 of 24",
            Shape {
                heads: 3,
                kv_heads: 3,
                head_dim: 24,
                ..plain
            },
        ),
        (
            // Blocks of heads beyond those that are scored at once.
            "10 heads on 10 of 8",
            Shape {
                heads: 10,
                kv_heads: 10,
                head_dim: 8,
                ..plain
            },
        ),
        (
            // More than 1,024 workgroups, whose totals take more than one turn.
            "140,000 candidates",
            Shape {
                heads: 2,
                kv_heads: 1,
                head_dim: 8,
                lengths: &[140_011, 500],
                ..plain
            },
        ),
        (
            "peaked values over several workgroups",
            Shape {
                heads: 4,
                kv_heads: 1,
                head_dim: 128,
                lengths: &[3011, 12],
                values: Values::Peaked,
                ..plain
            },
        ),
        (
            "peaked values",
            Shape {
                values: Values::Peaked,
                ..plain
            },
        ),
        (
            "equal values",
            Shape {
                values: Values::Constant(0.5),
                ..plain
            },
        ),
        (
            "no sinks and no tail",
            Shape {
                sinks: 0,
                tail: 0,
                lengths: &[1, 700],
                ..plain
            },
        ),
    ]
    .into_iter()
    .map(|(name, shape)| Case::new(name, move |rig| build(rig, shape)))
    .collect()
}

/// What says where the tokens of picks lie: rows, views, entries, picks, and the pages and slots that they use.
pub(super) struct Tables {
    pub rows: Vec<RowDesc>,
    pub views: Vec<ViewDesc>,
    pub entries: Vec<Entry>,
    pub picks: Vec<PickDesc>,
    pub pages: u32,
    pub used: Vec<u32>,
}

/// One row and one pick for each sequence, pages in a seeded order; row 0 belongs to none.
pub(super) fn tables(rig: &mut Rig, shape: Shape, keep: u32) -> Tables {
    let pages = shape
        .lengths
        .iter()
        .map(|length| length.div_ceil(PAGE))
        .sum::<u32>()
        + 2;
    let mut free = rig.permutation(pages).into_iter();
    let mut tables = Tables {
        rows: vec![RowDesc::default()],
        views: Vec::new(),
        entries: Vec::new(),
        picks: Vec::new(),
        pages,
        used: Vec::new(),
    };
    for (index, &length) in (0..).zip(shape.lengths) {
        let held: Vec<u32> = free.by_ref().take(length.div_ceil(PAGE) as usize).collect();
        let slot = |position: u32| Slot::new(held[(position / PAGE) as usize], position % PAGE).0;
        tables.used.extend((0..length).map(slot));
        tables.views.push(ViewDesc {
            first: tables.entries.len() as u32,
            length,
            last: length - 1,
            run: PAGE,
        });
        tables.picks.push(PickDesc {
            row: tables.rows.len() as u32,
            first: shape.sinks,
            candidates: length - shape.sinks - shape.tail,
            keep,
        });
        tables.rows.push(RowDesc {
            sequence: index,
            position: length - 1,
            slot: slot(length - 1),
            view: index,
            ..RowDesc::default()
        });
        tables.entries.extend(held.iter().map(|&page| raw(page)));
    }
    tables
}

fn build(rig: &mut Rig, shape: Shape) -> Result<Op> {
    let row = RowShape {
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
    };
    let tables = tables(rig, shape, 100);
    // One pick more than counts, with candidates, and room for more candidates than there are.
    let count = tables.picks.len() as u32;
    let mut picks = tables.picks.clone();
    picks.extend(tables.picks.last().copied());
    let width = shape.heads * shape.head_dim;
    let capacity = tables
        .picks
        .iter()
        .map(|pick| pick.candidates)
        .max()
        .unwrap_or(1)
        + 5;
    Ok(Observe {
        q: rig.f32(tables.rows.len() as u32, width, shape.values)?,
        kv: rig.cache(row, tables.pages, &tables.used, shape.values)?,
        rows: rig.rows(&tables.rows)?,
        views: rig.views(&tables.views)?,
        entries: rig.entries(&tables.entries)?,
        picks: rig.picks(&picks)?,
        count: rig.count(count)?,
        shape: row,
        scale: 1.0 / (shape.head_dim as f32).sqrt(),
        scores: rig.f32(count + 1, capacity, Values::Flat)?,
    }
    .into())
}
