//! Cases of `qkv_rope_append`.

use anyhow::Result;
use longwave_contract::kv::{KeySpace, PAGE, RowDesc, RowShape};
use longwave_contract::op::QkvRopeAppend;
use longwave_contract::{DType, Op, Tensor};
use longwave_tests::rig::{Rig, Values};

use super::Case;

#[derive(Clone, Copy)]
struct Shape {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    width: u32,
    rows: u32,
    count: u32,
    /// Pages of the cache beyond those that this step writes.
    spare_pages: u32,
    dtypes: [DType; 3],
    bias: bool,
    head_norm: bool,
    space: KeySpace,
    staged: bool,
}

pub(super) fn cases() -> Vec<Case> {
    let plain = Shape {
        heads: 3,
        kv_heads: 3,
        head_dim: 64,
        width: 96,
        rows: 1,
        count: 1,
        spare_pages: 2,
        dtypes: [DType::F16; 3],
        bias: false,
        head_norm: false,
        space: KeySpace::Roped,
        staged: false,
    };
    let mixed = [DType::Q4, DType::Q8G32M, DType::Q8G16];
    [
        ("one head for each", plain),
        (
            "one head for each, a large cache",
            Shape {
                spare_pages: 12,
                ..plain
            },
        ),
        (
            "a chunk, a large cache",
            Shape {
                rows: 33,
                count: 30,
                spare_pages: 12,
                ..plain
            },
        ),
        (
            "biased head norms, a large cache",
            Shape {
                head_norm: true,
                bias: true,
                spare_pages: 16,
                ..plain
            },
        ),
        (
            "4 heads for each, mixed weights",
            Shape {
                heads: 8,
                kv_heads: 2,
                rows: 3,
                count: 2,
                dtypes: mixed,
                ..plain
            },
        ),
        (
            "8 heads for each, bias",
            Shape {
                heads: 8,
                kv_heads: 1,
                head_dim: 128,
                rows: 7,
                count: 7,
                bias: true,
                ..plain
            },
        ),
        (
            "head norms",
            Shape {
                head_dim: 128,
                head_norm: true,
                dtypes: [DType::Q8G32; 3],
                ..plain
            },
        ),
        (
            "head norms and bias, a chunk",
            Shape {
                heads: 6,
                rows: 70,
                count: 65,
                head_norm: true,
                bias: true,
                ..plain
            },
        ),
        (
            "unroped keys",
            Shape {
                heads: 6,
                rows: 33,
                count: 33,
                head_norm: true,
                bias: true,
                space: KeySpace::Unroped,
                ..plain
            },
        ),
        (
            "one row of 4-bit weights, 4 heads for each",
            Shape {
                heads: 8,
                kv_heads: 2,
                head_dim: 128,
                width: 2080,
                dtypes: [DType::Q4; 3],
                spare_pages: 40,
                ..plain
            },
        ),
        (
            "one row of 8-bit weights, heads of 80",
            Shape {
                heads: 6,
                head_dim: 80,
                width: 576,
                dtypes: [DType::Q8G32M; 3],
                spare_pages: 12,
                ..plain
            },
        ),
        (
            "one row, unroped keys",
            Shape {
                heads: 6,
                space: KeySpace::Unroped,
                ..plain
            },
        ),
        (
            "one row, mixed weights",
            Shape {
                heads: 6,
                dtypes: mixed,
                ..plain
            },
        ),
        (
            "staged, head norms and bias",
            Shape {
                heads: 6,
                rows: 33,
                count: 30,
                head_norm: true,
                bias: true,
                staged: true,
                ..plain
            },
        ),
        (
            "staged, a large cache",
            Shape {
                spare_pages: 12,
                staged: true,
                ..plain
            },
        ),
        (
            "staged, unroped keys",
            Shape {
                rows: 3,
                count: 3,
                space: KeySpace::Unroped,
                staged: true,
                ..plain
            },
        ),
    ]
    .into_iter()
    .map(|(name, shape)| Case::new(name, move |rig| build(rig, shape)))
    .collect()
}

fn build(rig: &mut Rig, shape: Shape) -> Result<Op> {
    let Shape {
        heads,
        kv_heads,
        head_dim,
        width,
        rows,
        count,
        dtypes,
        ..
    } = shape;
    let row = RowShape { kv_heads, head_dim };
    let pages = rows.div_ceil(PAGE) + shape.spare_pages;
    let slots = rig.permutation(pages * PAGE);
    // Positions in both parts of the rotary table, consecutive from an odd start.
    let descs: Vec<RowDesc> = (0..rows)
        .map(|i| RowDesc {
            position: 250 + 509 * (i / 8) + i,
            slot: slots[i as usize],
            staged: slots[(rows - 1 - i) as usize] + 1,
            ..RowDesc::default()
        })
        .collect();
    let positions = descs.iter().map(|desc| desc.position + 1).max();
    let optional = |rig: &mut Rig, present: bool, cols: u32| -> Result<Option<Tensor>> {
        if present {
            Ok(Some(rig.f32(1, cols, Values::Peaked)?))
        } else {
            Ok(None)
        }
    };
    let norm = |rig: &mut Rig| -> Result<Option<Tensor>> {
        if shape.head_norm {
            Ok(Some(rig.norm(head_dim)?))
        } else {
            Ok(None)
        }
    };
    Ok(QkvRopeAppend {
        x: rig.f32(rows, width, Values::Peaked)?,
        norm: rig.norm(width)?,
        epsilon: 1e-5,
        w_q: rig.weight(dtypes[0], heads * head_dim, width)?,
        w_k: rig.weight(dtypes[1], row.width(), width)?,
        w_v: rig.weight(dtypes[2], row.width(), width)?,
        b_q: optional(rig, shape.bias, heads * head_dim)?,
        b_k: optional(rig, shape.bias, row.width())?,
        b_v: optional(rig, shape.bias, row.width())?,
        q_norm: norm(rig)?,
        k_norm: norm(rig)?,
        rope: rig.rope_table(head_dim, positions.unwrap_or(1))?,
        rows: rig.rows(&descs)?,
        count: rig.count(count)?,
        shape: row,
        space: shape.space,
        q: rig.f32(rows, heads * head_dim, Values::Flat)?,
        kv: rig.cache(row, pages, &[], Values::Flat)?,
        staged: if shape.staged {
            Some(rig.cache(row, pages + 1, &[], Values::Flat)?)
        } else {
            None
        },
    }
    .into())
}
