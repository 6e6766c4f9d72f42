//! Cases of `pack`.

use anyhow::Result;
use longwave_contract::kv::{BLOCK, BlockDesc, Entry, LatentShape, ScaleRule, Tier};
use longwave_contract::op::Pack;
use longwave_contract::{DType, Op};
use longwave_tests::latent::{POISON, components, halves, plain, referring, weights};
use longwave_tests::rig::{Rig, Values};

use super::Case;

/// How latents look.
#[derive(Clone, Copy, PartialEq)]
enum Latents {
    Seeded(Values),
    /// The same in all tokens, so that their errors are equal.
    Equal,
    /// Zero in every second token.
    Zeros,
    /// The residual itself, whose errors are what the codes lose.
    Residual,
}

pub(super) fn cases() -> Vec<Case> {
    let flat = Latents::Seeded(Values::Flat);
    let peaked = Latents::Seeded(Values::Peaked);
    let gain = |cols, rank| plain(cols, rank, ScaleRule::Gain, rank);
    let escaping = |shape: LatentShape, escapes, exact_f16| LatentShape {
        escapes,
        exact_f16,
        ..shape
    };
    let symmetric = |cols, rank, group| plain(cols, rank, ScaleRule::Symmetric, group);
    let min_max = |cols, rank, group| plain(cols, rank, ScaleRule::MinMax, group);
    let bits = |cols, rank| plain(cols, rank, ScaleRule::Plain, rank);
    [
        ("gains", gain(64, 64), flat, 1),
        (
            "gains, references, escapes",
            escaping(referring(gain(384, 384), 32, 4), 2, false),
            peaked,
            3,
        ),
        (
            "gains of few latents, one f16 escape",
            escaping(referring(gain(256, 40), 10, 2), 1, true),
            flat,
            2,
        ),
        (
            "gains of an odd number of tokens",
            escaping(referring(gain(64, 96), 9, 1), 3, false),
            flat,
            2,
        ),
        (
            "gains of zeros",
            escaping(gain(96, 70), 2, false),
            Latents::Zeros,
            1,
        ),
        (
            "gains of the residual",
            escaping(referring(gain(256, 256), 32, 4), 3, false),
            Latents::Residual,
            3,
        ),
        (
            "groups of 32",
            escaping(referring(symmetric(256, 256, 32), 10, 4), 3, false),
            peaked,
            2,
        ),
        (
            "groups of 48, the last smaller",
            symmetric(64, 250, 48),
            flat,
            2,
        ),
        ("groups of 1", symmetric(64, 33, 1), flat, 1),
        (
            "groups of zeros, f16 escapes",
            escaping(symmetric(96, 64, 64), 2, true),
            Latents::Zeros,
            1,
        ),
        (
            "least and largest",
            escaping(referring(min_max(256, 256, 256), 10, 4), 2, false),
            peaked,
            2,
        ),
        (
            "least and largest of groups of 50",
            min_max(64, 384, 50),
            flat,
            1,
        ),
        (
            "least and largest of zeros",
            min_max(64, 32, 32),
            Latents::Zeros,
            1,
        ),
        ("f16 latents", escaping(bits(64, 64), 1, false), flat, 2),
        (
            "f16 latents, references, peaked",
            escaping(referring(bits(128, 250), 10, 4), 2, true),
            peaked,
            1,
        ),
        (
            "equal errors go to the first tokens",
            escaping(referring(gain(64, 64), 32, 1), 3, false),
            Latents::Equal,
            2,
        ),
        (
            "more tokens than workgroups of an axis",
            escaping(referring(gain(32, 8), 32, 1), 1, false),
            flat,
            513,
        ),
        (
            "more escapes than tokens",
            escaping(referring(gain(32, 32), 2, 1), 70, false),
            flat,
            1,
        ),
    ]
    .into_iter()
    .map(|(name, shape, latents, count)| {
        Case::new(name, move |rig| build(rig, shape, latents, count))
    })
    .collect()
}

fn build(rig: &mut Rig, shape: LatentShape, latents: Latents, count: u32) -> Result<Op> {
    let (cols, rank, capacity) = (shape.cols, shape.rank, count + 1);
    let mut blocks = Vec::new();
    let mut entries = vec![Entry(u32::MAX)];
    for (index, number) in (0..).zip(rig.permutation(capacity)).take(count as usize) {
        entries.extend(Entry::new(Tier::Latent, number));
        blocks.push(BlockDesc {
            source: 3 + index * BLOCK,
            index,
            sinks: 1,
            blocks: 1,
            ..BlockDesc::default()
        });
    }
    blocks.resize(capacity as usize, BlockDesc::default());
    let rows = capacity * BLOCK;
    let one: Vec<u32> = (0..rank)
        .map(|_| rig.value(Values::Flat).to_bits())
        .collect();
    let zeros = vec![0; rank as usize];
    let repeated = |row: fn(u32) -> bool| -> Vec<u32> {
        (0..rows)
            .flat_map(|at| if row(at) { zeros.clone() } else { one.clone() })
            .collect()
    };
    let z = match latents {
        Latents::Seeded(values) => rig.f32(rows, rank, values)?,
        Latents::Equal => rig.words(DType::F32, rows, rank, &repeated(|_| false))?,
        Latents::Zeros => rig.words(DType::F32, rows, rank, &repeated(|row| row % 2 == 1))?,
        Latents::Residual => rig.f32(rows, rank, Values::Flat)?,
    };
    let residual = match latents {
        Latents::Equal => rig.f32(rows, cols, Values::Constant(0.3))?,
        Latents::Residual => z,
        _ => rig.f32(rows, cols, Values::Flat)?,
    };
    let metric = weights(rig, cols)?;
    let energy = match latents {
        Latents::Residual => metric,
        _ => weights(rig, rank)?,
    };
    Ok(Pack {
        z,
        residual,
        staged: halves(rig, 3 + count * BLOCK, cols)?,
        blocks: rig.words(
            DType::U32,
            capacity,
            BlockDesc::WORDS,
            bytemuck::cast_slice(&blocks),
        )?,
        count: rig.count(count)?,
        entries: rig.entries(&entries)?,
        mean: rig.f32(1, cols, Values::Flat)?,
        metric,
        components: components(rig, &shape)?.1,
        energy,
        shape,
        latents: rig.words(
            DType::U32,
            capacity,
            shape.words(),
            &vec![POISON; (capacity * shape.words()) as usize],
        )?,
    }
    .into())
}
