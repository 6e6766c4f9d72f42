//! Cases of `refer`.

use anyhow::Result;
use longwave_contract::kv::{BLOCK, BlockDesc, Entry, LatentShape, ScaleRule, Tier};
use longwave_contract::op::Refer;
use longwave_contract::{DType, Op};
use longwave_tests::latent::{POISON, halves, plain, references, referring, weights};
use longwave_tests::rig::{Rig, Values};

use super::Case;

/// A sequence: blocks that are compressed already, and blocks to compress.
type Sequence = (u32, u32);

#[derive(Clone, Copy)]
struct Shape {
    latent: LatentShape,
    sinks: u32,
    sequences: &'static [Sequence],
    /// Blocks that do not count.
    spare: u32,
    /// Whether all tokens are the same.
    equal: bool,
    /// Whether bases are asked for.
    base: bool,
}

pub(super) fn cases() -> Vec<Case> {
    let latent = |cols| plain(cols, 64, ScaleRule::Gain, 64);
    let base = Shape {
        latent: referring(latent(64), 32, 1),
        sinks: 0,
        sequences: &[(0, 1)],
        spare: 0,
        equal: false,
        base: false,
    };
    let exact = |shape: LatentShape| LatentShape {
        exact_f16: true,
        ..shape
    };
    [
        ("one block, one neighbour", base),
        (
            "four neighbours, sinks, earlier blocks",
            Shape {
                latent: referring(latent(384), 32, 4),
                sinks: 8,
                sequences: &[(5, 2)],
                spare: 1,
                ..base
            },
        ),
        (
            "stride 10, two neighbours, two sequences",
            Shape {
                latent: referring(latent(256), 10, 2),
                sinks: 4,
                sequences: &[(0, 2), (9, 1)],
                ..base
            },
        ),
        (
            "stride 10 in f16, four neighbours",
            Shape {
                latent: exact(referring(latent(256), 10, 4)),
                sinks: 4,
                sequences: &[(3, 3)],
                ..base
            },
        ),
        (
            "three neighbours of one that exists",
            Shape {
                latent: referring(latent(96), 128, 3),
                ..base
            },
        ),
        (
            "eight neighbours of every second token",
            Shape {
                latent: referring(latent(96), 2, 8),
                sinks: 33,
                sequences: &[(1, 1)],
                ..base
            },
        ),
        (
            "seven neighbours in f16",
            Shape {
                latent: exact(referring(latent(32), 3, 7)),
                sinks: 1,
                sequences: &[(0, 2)],
                ..base
            },
        ),
        (
            "equal tokens take the first references",
            Shape {
                latent: exact(referring(latent(64), 10, 4)),
                sinks: 3,
                sequences: &[(0, 2)],
                equal: true,
                ..base
            },
        ),
        (
            "equal tokens in 8 bit",
            Shape {
                latent: referring(latent(64), 16, 2),
                sinks: 3,
                sequences: &[(0, 2)],
                equal: true,
                ..base
            },
        ),
        (
            "bases, of references in f16",
            Shape {
                latent: exact(referring(latent(256), 10, 4)),
                sinks: 4,
                sequences: &[(0, 2), (9, 1)],
                spare: 1,
                base: true,
                ..base
            },
        ),
        (
            "bases, of references in 8 bit",
            Shape {
                latent: referring(latent(96), 32, 3),
                sequences: &[(1, 2)],
                base: true,
                ..base
            },
        ),
        (
            "many blocks",
            Shape {
                latent: referring(latent(64), 32, 4),
                sinks: 8,
                sequences: &[(60, 4)],
                spare: 2,
                ..base
            },
        ),
    ]
    .into_iter()
    .map(|(name, shape)| Case::new(name, move |rig| build(rig, shape)))
    .chain([false, true].map(|base| {
        let name = if base {
            "no references, bases"
        } else {
            "no references"
        };
        Case::new(name, move |rig| build_plain(rig, base))
    }))
    .collect()
}

fn build(rig: &mut Rig, shape: Shape) -> Result<Op> {
    let latent = shape.latent;
    let (words, cols) = (latent.words() as usize, latent.cols);
    let all: u32 = shape.sequences.iter().map(|(old, new)| old + new).sum();
    let mut free = rig.permutation(all + 2).into_iter();
    let mut records = vec![POISON; (all as usize + 2) * words];
    let mut entries = vec![Entry(u32::MAX)];
    let mut blocks = Vec::new();
    for &(old, new) in shape.sequences {
        let first = entries.len() as u32;
        for (index, number) in (0..old + new).zip(&mut free) {
            entries.extend(Entry::new(Tier::Latent, number));
            if index < old {
                let record = references(rig, &latent);
                records[number as usize * words..][..words].copy_from_slice(&record);
                continue;
            }
            blocks.push(BlockDesc {
                // A gap between the sinks and each block.
                source: shape.sinks + 2 + blocks.len() as u32 * (BLOCK + 1),
                index,
                sinks: shape.sinks,
                blocks: first,
                ..BlockDesc::default()
            });
        }
    }
    let count = blocks.len() as u32;
    let rows = shape.sinks + 2 + count * (BLOCK + 1);
    blocks.resize((count + shape.spare) as usize, BlockDesc::default());
    let capacity = blocks.len() as u32;
    let staged = if shape.equal {
        let words = vec![0x3c66_b123u32; (rows * cols / 2) as usize];
        rig.bytes(DType::F16, rows, cols, bytemuck::cast_slice(&words))
    } else {
        halves(rig, rows, cols)
    };
    Ok(Refer {
        staged: staged?,
        blocks: rig.words(
            DType::U32,
            capacity,
            BlockDesc::WORDS,
            bytemuck::cast_slice(&blocks),
        )?,
        count: rig.count(count)?,
        entries: rig.entries(&entries)?,
        mean: rig.f32(1, cols, Values::Flat)?,
        metric: weights(rig, cols)?,
        shape: latent,
        latents: rig.words(DType::U32, all + 2, latent.words(), &records)?,
        residual: rig.f32(capacity * BLOCK, cols, Values::Constant(60_000.0))?,
        base: if shape.base {
            Some(rig.f32(capacity * BLOCK, cols, Values::Constant(60_000.0))?)
        } else {
            None
        },
    }
    .into())
}

/// Residuals against the mean.
fn build_plain(rig: &mut Rig, base: bool) -> Result<Op> {
    let shape = Shape {
        latent: plain(96, 64, ScaleRule::Gain, 64),
        sinks: 5,
        sequences: &[(2, 3)],
        spare: 1,
        equal: false,
        base,
    };
    build(rig, shape)
}
