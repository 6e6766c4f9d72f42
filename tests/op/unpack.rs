//! Cases of `unpack`.

use anyhow::Result;
use longwave_contract::Op;
use longwave_contract::kv::{LatentShape, RowShape, ScaleRule};
use longwave_contract::op::{Tokens, Unpack};
use longwave_tests::latent::{Sequence, components, layout, plain, referring};
use longwave_tests::rig::{Rig, Values};

use super::Case;

#[derive(Clone, Copy)]
struct Shape {
    latent: LatentShape,
    sequences: &'static [Sequence],
    /// Positions of a list, where tokens are named by lists.
    listed: Option<u32>,
    pitch: u32,
    first: u32,
    rows: u32,
    count: u32,
    /// Whether latents are a result of their own.
    apart: bool,
    /// Whether coded tokens get a constant besides.
    offset: bool,
    /// Whether listed tokens are named one by one.
    misses: bool,
}

pub(super) fn cases() -> Vec<Case> {
    let gain = |cols, rank| plain(cols, rank, ScaleRule::Gain, rank);
    let escaping = |shape: LatentShape, escapes, exact_f16| LatentShape {
        escapes,
        exact_f16,
        ..shape
    };
    let base = Shape {
        latent: gain(64, 64),
        sequences: &[(0, 1, 0, 0)],
        listed: None,
        pitch: 128,
        first: 0,
        rows: 128,
        count: 128,
        apart: true,
        offset: false,
        misses: false,
    };
    [
        ("one block", base),
        (
            "sinks, blocks, a tail",
            Shape {
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
                latent: escaping(referring(gain(256, 250), 10, 2), 1, true),
                sequences: &[(40, 1, 1, 0), (4, 3, 70, 0)],
                pitch: 512,
                first: 100,
                rows: 900,
                count: 850,
                ..base
            },
        ),
        (
            "lists",
            Shape {
                latent: escaping(referring(gain(256, 96), 10, 1), 2, false),
                sequences: &[(4, 2, 5, 61), (0, 3, 0, 100), (3, 0, 40, 7)],
                listed: Some(101),
                pitch: 110,
                first: 3,
                rows: 320,
                count: 320,
                ..base
            },
        ),
        (
            "misses",
            Shape {
                latent: escaping(referring(gain(256, 96), 10, 1), 2, false),
                sequences: &[(4, 2, 5, 61), (0, 3, 0, 100), (3, 0, 40, 7)],
                listed: Some(101),
                pitch: 1,
                first: 3,
                rows: 150,
                count: 141,
                misses: true,
                ..base
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
            "more rows than workgroups of an axis",
            Shape {
                latent: referring(gain(32, 8), 32, 1),
                sequences: &[(0, 520, 0, 0)],
                pitch: 66_560,
                rows: 66_000,
                count: 65_999,
                ..base
            },
        ),
        (
            "groups",
            Shape {
                latent: referring(plain(96, 250, ScaleRule::Symmetric, 48), 10, 3),
                sequences: &[(3, 2, 1, 0)],
                pitch: 260,
                rows: 260,
                count: 260,
                ..base
            },
        ),
        (
            "least and largest",
            Shape {
                latent: referring(plain(256, 128, ScaleRule::MinMax, 128), 10, 4),
                ..base
            },
        ),
        (
            "f16 latents",
            Shape {
                latent: escaping(
                    referring(plain(64, 100, ScaleRule::Plain, 100), 2, 8),
                    2,
                    true,
                ),
                sequences: &[(9, 2, 0, 0)],
                pitch: 265,
                rows: 265,
                count: 265,
                ..base
            },
        ),
        (
            "an offset, and f16 latents of a network",
            Shape {
                latent: escaping(
                    referring(plain(256, 64, ScaleRule::Plain, 32), 10, 4),
                    2,
                    true,
                ),
                sequences: &[(8, 2, 33, 0)],
                pitch: 300,
                rows: 300,
                count: 298,
                offset: true,
                ..base
            },
        ),
        (
            "an offset, listed, around the mean, latents are the residual",
            Shape {
                latent: plain(64, 64, ScaleRule::Symmetric, 16),
                sequences: &[(2, 2, 3, 90)],
                listed: Some(90),
                pitch: 90,
                rows: 90,
                count: 90,
                apart: false,
                offset: true,
                ..base
            },
        ),
        (
            "latents are the residual",
            Shape {
                latent: escaping(
                    referring(plain(256, 256, ScaleRule::MinMax, 64), 10, 4),
                    2,
                    false,
                ),
                sequences: &[(8, 2, 33, 0)],
                pitch: 300,
                rows: 300,
                count: 300,
                apart: false,
                ..base
            },
        ),
        (
            "the residual against the mean, listed",
            Shape {
                latent: escaping(plain(64, 64, ScaleRule::Symmetric, 16), 2, false),
                sequences: &[(2, 2, 3, 90)],
                listed: Some(90),
                pitch: 90,
                rows: 90,
                count: 90,
                apart: false,
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
    let (descs, components) = components(rig, &latent)?;
    let row = RowShape {
        kv_heads: 1,
        head_dim: latent.cols / 2,
    };
    let poison = Values::Constant(60_000.0);
    Ok(Unpack {
        tokens: match shape.listed {
            Some(_) if shape.misses => {
                Tokens::Missing(layout.misses(rig, 1024, shape.first + shape.rows)?)
            }
            Some(most) => Tokens::Listed(layout.tokens(rig, most)?),
            None => Tokens::All,
        },
        stores: layout.stores(rig)?,
        entries: rig.entries(&layout.entries)?,
        count: rig.count(shape.count)?,
        pitch: shape.pitch,
        first: shape.first,
        raw: rig.cache(row, layout.pages, &layout.used, Values::Flat)?,
        mean: rig.f32(1 + u32::from(shape.offset), latent.cols, Values::Flat)?,
        components,
        shape: latent,
        latents: layout.records(rig, &latent, &descs)?,
        z: if shape.apart {
            Some(rig.f32(shape.rows, latent.rank, poison)?)
        } else {
            None
        },
        out: rig.f32(shape.rows, latent.cols, poison)?,
    }
    .into())
}
