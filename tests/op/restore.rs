//! Cases of `restore`.

use anyhow::Result;
use longwave_contract::kv::{LatentShape, PAGE, RowShape, ScaleRule};
use longwave_contract::op::{Restore, Tokens};
use longwave_contract::{DType, Op};
use longwave_tests::latent::{Sequence, components, layout, plain, referring};
use longwave_tests::rig::{Rig, Values};

use super::Case;

#[derive(Clone, Copy)]
struct Shape {
    row: RowShape,
    latent: LatentShape,
    /// The decoder's type, where there is one.
    decoder: Option<DType>,
    sequences: &'static [Sequence],
    /// Positions of a list, where tokens are named by lists.
    listed: Option<u32>,
    /// Whether listed tokens are named one by one, with slots.
    misses: bool,
    pitch: u32,
    first: u32,
    rows: u32,
    count: u32,
    /// Whether coded tokens get a constant besides.
    offset: bool,
    norm: bool,
    /// Pages of scratch rows beyond those that are written.
    spare_pages: u32,
}

pub(super) fn cases() -> Vec<Case> {
    let gain = |cols, rank| plain(cols, rank, ScaleRule::Gain, rank);
    let row = |kv_heads, head_dim| RowShape { kv_heads, head_dim };
    let escaping = |shape: LatentShape, escapes, exact_f16| LatentShape {
        escapes,
        exact_f16,
        ..shape
    };
    let base = Shape {
        row: row(1, 64),
        latent: gain(128, 64),
        decoder: Some(DType::F16),
        sequences: &[(0, 1, 0, 0)],
        listed: None,
        misses: false,
        pitch: 128,
        first: 0,
        rows: 128,
        count: 128,
        offset: false,
        norm: false,
        spare_pages: 1,
    };
    let lists = Shape {
        row: row(2, 64),
        latent: escaping(referring(gain(256, 96), 10, 1), 2, false),
        sequences: &[(4, 2, 5, 61), (0, 3, 0, 100), (3, 0, 40, 7)],
        listed: Some(101),
        pitch: 110,
        first: 3,
        rows: 320,
        count: 320,
        ..base
    };
    let misses = Shape {
        misses: true,
        pitch: 1,
        rows: 150,
        count: 141,
        norm: true,
        spare_pages: 4,
        ..lists
    };
    let wide = Shape {
        row: row(4, 128),
        latent: escaping(referring(gain(1024, 1024), 16, 4), 2, false),
        sequences: &[(8, 3, 33, 0)],
        pitch: 420,
        rows: 420,
        count: 420,
        ..base
    };
    [
        ("one block", base),
        (
            "one row",
            Shape {
                rows: 1,
                count: 1,
                ..base
            },
        ),
        (
            "sinks, blocks, a tail",
            Shape {
                row: row(3, 64),
                latent: escaping(referring(gain(384, 384), 32, 4), 3, false),
                sequences: &[(8, 2, 33, 0)],
                pitch: 300,
                rows: 300,
                count: 298,
                ..base
            },
        ),
        (
            "two sequences, from a row in the first",
            Shape {
                row: row(1, 128),
                latent: escaping(referring(gain(256, 224), 10, 2), 1, true),
                sequences: &[(40, 1, 1, 0), (4, 3, 70, 0)],
                pitch: 512,
                first: 100,
                rows: 900,
                count: 850,
                norm: true,
                ..base
            },
        ),
        ("wide rows", wide),
        (
            "wide rows, few misses of many",
            Shape {
                sequences: &[(8, 3, 33, 300)],
                listed: Some(300),
                misses: true,
                rows: 700,
                count: 37,
                norm: true,
                spare_pages: 8,
                ..wide
            },
        ),
        ("lists", lists),
        (
            "lists, a norm, many scratch rows",
            Shape {
                norm: true,
                spare_pages: 90,
                ..lists
            },
        ),
        ("misses", misses),
        (
            "misses in several slabs",
            Shape {
                spare_pages: 90,
                ..misses
            },
        ),
        (
            "few rows, many scratch rows",
            Shape {
                rows: 40,
                count: 40,
                spare_pages: 120,
                ..lists
            },
        ),
        (
            "only raw tokens",
            Shape {
                sequences: &[(32, 0, 64, 0)],
                pitch: 97,
                rows: 97,
                count: 97,
                ..base
            },
        ),
        (
            "groups, heads of 96",
            Shape {
                row: row(2, 96),
                latent: referring(plain(384, 256, ScaleRule::Symmetric, 48), 10, 3),
                sequences: &[(3, 2, 1, 0)],
                pitch: 260,
                rows: 260,
                count: 260,
                norm: true,
                ..base
            },
        ),
        (
            "rotated rows around the mean",
            Shape {
                row: row(2, 64),
                latent: LatentShape {
                    exact_f16: true,
                    ..plain(256, 256, ScaleRule::Symmetric, 32)
                },
                sequences: &[(8, 2, 33, 0)],
                pitch: 300,
                rows: 300,
                count: 298,
                ..base
            },
        ),
        (
            "least and largest",
            Shape {
                latent: referring(plain(128, 128, ScaleRule::MinMax, 128), 10, 4),
                ..base
            },
        ),
        (
            "an offset, and f16 latents",
            Shape {
                row: row(1, 80),
                latent: escaping(
                    referring(plain(160, 96, ScaleRule::Plain, 96), 10, 8),
                    2,
                    true,
                ),
                sequences: &[(9, 2, 0, 0)],
                pitch: 265,
                rows: 265,
                count: 265,
                offset: true,
                ..base
            },
        ),
        (
            "a decoder of codes",
            Shape {
                decoder: Some(DType::Q8G32),
                ..lists
            },
        ),
        (
            "heads of 256",
            Shape {
                row: row(1, 256),
                latent: escaping(referring(gain(512, 96), 10, 2), 2, false),
                sequences: &[(8, 2, 33, 0)],
                pitch: 300,
                rows: 300,
                count: 300,
                norm: true,
                ..base
            },
        ),
        (
            "latents are the residual",
            Shape {
                latent: escaping(
                    referring(plain(128, 128, ScaleRule::MinMax, 64), 10, 4),
                    2,
                    false,
                ),
                decoder: None,
                sequences: &[(8, 2, 33, 0)],
                pitch: 300,
                rows: 300,
                count: 300,
                ..base
            },
        ),
        (
            "an offset, listed, around the mean, latents are the residual",
            Shape {
                latent: plain(128, 128, ScaleRule::Symmetric, 16),
                decoder: None,
                sequences: &[(2, 2, 3, 90)],
                listed: Some(90),
                pitch: 90,
                rows: 90,
                count: 90,
                offset: true,
                ..base
            },
        ),
    ]
    .into_iter()
    .map(|(name, shape)| Case::new(name, move |rig| build(rig, shape)))
    .collect()
}

fn build(rig: &mut Rig, shape: Shape) -> Result<Op> {
    let latent = shape.latent;
    let layout = layout(rig, shape.sequences);
    let most = layout.stores.iter().map(|store| store.length).max();
    let (descs, components) = components(rig, &latent)?;
    let pages = (shape.first + shape.rows).div_ceil(PAGE) + shape.spare_pages;
    Ok(Restore {
        tokens: match shape.listed {
            Some(_) if shape.misses => {
                Tokens::Missing(layout.misses(rig, pages * PAGE, shape.first + shape.rows)?)
            }
            Some(most) => Tokens::Listed(layout.tokens(rig, most)?),
            None => Tokens::All,
        },
        stores: layout.stores(rig)?,
        entries: rig.entries(&layout.entries)?,
        count: rig.count(shape.count)?,
        pitch: shape.pitch,
        first: shape.first,
        rows: shape.rows,
        raw: rig.cache(shape.row, layout.pages, &layout.used, Values::Flat)?,
        mean: rig.f32(1 + u32::from(shape.offset), latent.cols, Values::Flat)?,
        components,
        latent,
        latents: layout.records(rig, &latent, &descs)?,
        decoder: match shape.decoder {
            Some(dtype) => Some(rig.weight(dtype, latent.cols, latent.rank)?),
            None => None,
        },
        k_norm: match shape.norm {
            true => Some(rig.norm(shape.row.head_dim)?),
            false => None,
        },
        epsilon: 1e-5,
        rope: rig.rope_table(shape.row.head_dim, most.unwrap_or(1))?,
        shape: shape.row,
        kv: rig.cache(shape.row, pages, &[], Values::Flat)?,
    }
    .into())
}
