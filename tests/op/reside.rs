//! Cases of `reside`.

use anyhow::Result;
use longwave_contract::kv::StoreDesc;
use longwave_contract::op::{NO_TOKEN, RESIDENT_HEAD, Reside};
use longwave_contract::{DType, Op};
use longwave_tests::rig::Rig;

use super::Case;

/// What lies in a sequence's lane.
#[derive(Clone, Copy, PartialEq)]
enum Lane {
    /// Nothing yet.
    Empty,
    /// What the sequence left there.
    Own,
    /// What another sequence, or the same before it was cut, left there.
    Other,
    /// The sequence's, with a clock that has run out.
    Late,
}

#[derive(Clone, Copy)]
struct Shape {
    /// Length of each sequence, how many of its tokens are chosen, and what lies in its lane.
    sequences: &'static [(u32, u32, Lane)],
    /// Sequences that count.
    count: u32,
    lanes: u32,
    slots: u32,
    /// Tokens that a list has room for.
    capacity: u32,
    tile: u32,
    /// How many stamps there are; of 1, all slots are equally old.
    stamps: u32,
}

pub(super) fn cases() -> Vec<Case> {
    let base = Shape {
        sequences: &[(900, 200, Lane::Own)],
        count: 1,
        lanes: 1,
        slots: 416,
        capacity: 208,
        tile: 128,
        stamps: 9,
    };
    let several = Shape {
        sequences: &[
            (3000, 700, Lane::Own),
            (1500, 333, Lane::Other),
            (900, 1, Lane::Own),
            (5000, 701, Lane::Late),
            (800, 701, Lane::Empty),
        ],
        count: 5,
        lanes: 7,
        slots: 1400,
        capacity: 701,
        tile: 512,
        stamps: 100_000,
    };
    [
        ("one sequence", base),
        ("equally old slots", Shape { stamps: 1, ..base }),
        (
            "an empty lane",
            Shape {
                sequences: &[(900, 200, Lane::Empty)],
                ..base
            },
        ),
        (
            "as many slots as tokens",
            Shape {
                sequences: &[(900, 64, Lane::Own)],
                slots: 64,
                ..base
            },
        ),
        (
            "everything is chosen",
            Shape {
                sequences: &[(200, 200, Lane::Own)],
                ..base
            },
        ),
        (
            "the newest token only",
            Shape {
                sequences: &[(1, 1, Lane::Own)],
                slots: 3,
                capacity: 5,
                ..base
            },
        ),
        ("several sequences", several),
        (
            "some of several sequences",
            Shape {
                count: 3,
                ..several
            },
        ),
    ]
    .into_iter()
    .map(|(name, shape)| Case::new(name, move |rig| build(rig, shape)))
    .collect()
}

fn build(rig: &mut Rig, shape: Shape) -> Result<Op> {
    let (lanes, slots) = (shape.lanes, shape.slots);
    let cols = RESIDENT_HEAD + 2 * slots;
    let order = rig.permutation(lanes);
    let mut resident = vec![0u32; (lanes * cols) as usize];
    let (mut stores, mut tokens) = (Vec::new(), Vec::new());
    for (index, (&(length, chosen, holds), &lane)) in
        (0u32..).zip(shape.sequences.iter().zip(&order))
    {
        let generation = 10 + index;
        stores.push(StoreDesc {
            length,
            chosen,
            lane,
            generation,
            ..StoreDesc::default()
        });
        // The newest token is always chosen.
        let mut list: Vec<u32> = rig.permutation(length.max(2) - 1);
        list.truncate(chosen as usize - 1);
        list.retain(|&token| token + 1 < length);
        list.push(length - 1);
        list.sort_unstable();
        list.resize(shape.capacity as usize, u32::MAX);
        tokens.extend(list);
        if holds == Lane::Empty {
            continue;
        }
        let row = &mut resident[(lane * cols) as usize..][..cols as usize];
        let clock = shape.stamps + 1;
        row[0] = generation + if holds == Lane::Other { 100 } else { 0 };
        row[1] = if holds == Lane::Late { u32::MAX } else { clock };
        // Some positions were taken back after they had been chosen; some slots are empty.
        let held = rig.permutation(length + 40);
        for slot in 0..slots {
            let full = rig.below(9) > 0;
            let (token, stamp) = match held.get(slot as usize) {
                Some(&token) if full => (token, 1 + rig.below(shape.stamps)),
                _ => (NO_TOKEN, 0),
            };
            row[(RESIDENT_HEAD + slot) as usize] = token;
            row[(RESIDENT_HEAD + slots + slot) as usize] = stamp;
        }
    }
    let p = stores.len() as u32;
    let rows: u32 = shape.sequences.iter().map(|sequence| sequence.1).sum();
    let tiles = rows.div_ceil(shape.tile);
    let poison = |words: u32| vec![u32::MAX; words as usize];
    Ok(Reside {
        tokens: rig.words(DType::U32, p, shape.capacity, &tokens)?,
        stores: rig.words(
            DType::U32,
            p,
            StoreDesc::WORDS,
            bytemuck::cast_slice(&stores),
        )?,
        count: rig.count(shape.count)?,
        resident: rig.words(DType::U32, lanes, cols, &resident)?,
        out: rig.words(DType::U32, p, shape.capacity, &poison(p * shape.capacity))?,
        misses: rig.words(DType::U32, rows, 4, &poison(rows * 4))?,
        counts: rig.words(DType::U32, tiles, 64, &poison(tiles * 64))?,
        tile: shape.tile,
    }
    .into())
}
