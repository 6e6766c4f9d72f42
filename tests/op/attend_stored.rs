//! Cases of `attend_stored`.

use std::sync::Arc;

use anyhow::{Result, ensure};
use half::f16;
use longwave_contract::kv::{
    ComponentDesc, LatentShape, PAGE, RowDesc, RowShape, ScaleRule, StoreDesc, ViewDesc,
};
use longwave_contract::op::{Attend, AttendStored, Restore, Tokens};
use longwave_contract::{Backend, DType, Op, Recording, Tensor};
use longwave_tests::latent::{Sequence, layout, plain};
use longwave_tests::rig::{Rig, Values, raw};

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

/// What a backend has to read as it is stored.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub head_dim: u32,
    pub norm: bool,
}

impl Stored {
    /// The backend, where it does.
    pub fn served(self, subject: Arc<dyn Backend>) -> Result<Arc<dyn Backend>, String> {
        let Stored { head_dim, norm } = self;
        match subject.caps().reads_stored(head_dim, norm) {
            true => Ok(subject),
            false => {
                let with = if norm { ", with norms" } else { "" };
                let what = format!("tokens with heads of {head_dim} elements{with}");
                Err(format!("{what}, are restored for attend"))
            }
        }
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
    // Where subgroups are small, heads of 128 elements are not served.
    let narrow = |shape: Shape| Shape {
        row: row(shape.row.kv_heads, 64),
        ..shape
    };
    let small = [
        ("heads of 64, one sequence", narrow(base)),
        (
            "heads of 64, only raw tokens",
            Shape {
                sequences: &[(8, 0, 33, 0)],
                ..narrow(base)
            },
        ),
        (
            "heads of 64, rows within a block, and within sinks",
            Shape {
                rows: &[(0, 140), (0, 131), (0, 386), (0, 270)],
                ..narrow(base)
            },
        ),
        (
            "heads of 64, many long sequences",
            Shape {
                sequences: &[(8, 40, 140, 0); 16],
                rows: &[(3, 0); 16],
                ..narrow(base)
            },
        ),
        (
            "heads of 64, eight on one",
            Shape {
                row: row(1, 64),
                ..many
            },
        ),
        (
            "heads of 256",
            Shape {
                row: row(2, 256),
                ..many
            },
        ),
        (
            "heads of 32",
            Shape {
                row: row(2, 32),
                ..many
            },
        ),
    ];
    let each = |(name, shape): (&str, Shape)| {
        [(8, 1.0), (4, 16.0)].map(|(bits, more)| {
            let shape = Shape {
                bits,
                size: shape.size * more,
                ..shape
            };
            let name = format!("{name}, {bits} bits");
            Case {
                stored: Some(Stored {
                    head_dim: shape.row.head_dim,
                    norm: shape.norm,
                }),
                ..Case::new(name, move |rig| build(rig, shape))
            }
        })
    };
    shapes.into_iter().chain(small).flat_map(each).collect()
}

fn build(rig: &mut Rig, shape: Shape) -> Result<Op> {
    make(rig, shape).map(|(op, _)| op.into())
}

/// The op, and where its tokens lie.
fn make(rig: &mut Rig, shape: Shape) -> Result<(AttendStored, Vec<StoreDesc>)> {
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
    let op = AttendStored {
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
    };
    Ok((op, layout.stores))
}

/// Reading tokens as they are stored gives what restoring them and attending to that gives, but for the rounding of restored rows. In heads of 64
/// elements the decoder's matrix rounds nothing.
pub(super) fn restored_gives_the_same(subject: &Arc<dyn Backend>) -> Result<()> {
    for (bits, norm, size) in [(8, false, 0.02), (8, true, 0.02), (4, false, 0.32)] {
        if norm && !subject.caps().stored_norms {
            continue;
        }
        let shape = Shape {
            heads: 6,
            row: RowShape {
                kv_heads: 2,
                head_dim: 64,
            },
            bits,
            sequences: &[(8, 2, 131, 0), (0, 1, 1, 0), (40, 0, 3, 0)],
            rows: &[(0, 0), (1, 0), (2, 0), (0, 200)],
            spare: 0,
            norm,
            size,
        };
        let mut rig = Rig::new(subject, 11);
        let (stored, stores) = make(&mut rig, shape)?;
        let (restore, attend) = parts(&mut rig, &stored, &stores)?;
        let mut recording = Recording::new("both ways");
        recording.push(stored)?;
        recording.push(restore)?;
        recording.push(attend)?;
        let plan = subject.prepare(&recording)?;
        let ticket = subject.run(plan)?;
        subject.wait(ticket)?;
        subject.release(plan);
        let values = |tensor: Tensor| -> Result<Vec<f32>> {
            Ok(bytemuck::pod_collect_to_vec(&rig.read(tensor)?))
        };
        let (found, expected) = (values(stored.out)?, values(attend.out)?);
        let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let off = (found - expected).abs() / largest;
            ensure!(
                off < 2e-3,
                "{bits} bits, element {index}: {found} instead of {expected}"
            );
        }
    }
    Ok(())
}

/// The ops that are the same: every token restored, and attention over that.
fn parts(rig: &mut Rig, op: &AttendStored, stores: &[StoreDesc]) -> Result<(Restore, Attend)> {
    let (cols, dim) = (op.latent.cols, op.shape.head_dim);
    let pitch = op.longest.next_multiple_of(PAGE);
    let rows = pitch * stores.len() as u32;
    let components: Vec<ComponentDesc> = (0..cols)
        .map(|index| AttendStored::component(index, op.bits()))
        .collect();
    let element = |index: u32| match (index / cols, index % cols) {
        (row, col) if row / dim == col / dim => AttendStored::rotation(dim, row % dim, col % dim),
        _ => 0.0,
    };
    let decoder: Vec<u8> = (0..cols * cols)
        .flat_map(|index| f16::from_f32(element(index)).to_le_bytes())
        .collect();
    let views: Vec<ViewDesc> = (0..)
        .zip(stores)
        .map(|(index, store): (u32, _)| ViewDesc {
            first: index * (pitch / PAGE),
            length: store.length,
            last: store.length - 1,
            run: PAGE,
        })
        .collect();
    let pages: Vec<_> = (0..rows / PAGE).map(raw).collect();
    let restore = Restore {
        tokens: Tokens::All,
        stores: op.stores,
        entries: op.entries,
        count: rig.count(rows)?,
        pitch,
        first: 0,
        rows,
        raw: op.raw,
        mean: op.mean,
        components: rig.words(
            DType::U32,
            cols,
            ComponentDesc::WORDS,
            bytemuck::cast_slice(&components),
        )?,
        latent: op.latent,
        latents: op.latents,
        decoder: Some(rig.bytes(DType::F16, cols, cols, &decoder)?),
        k_norm: op.k_norm,
        epsilon: op.epsilon,
        rope: op.rope,
        shape: op.shape,
        kv: rig.cache(op.shape, rows / PAGE, &[], Values::Flat)?,
    };
    let attend = Attend {
        q: op.q,
        kv: restore.kv,
        rows: op.rows,
        count: op.count,
        views: rig.views(&views)?,
        entries: rig.entries(&pages)?,
        shape: op.shape,
        scale: op.scale,
        longest: op.longest,
        out: rig.f32(op.out.rows, op.out.cols, Values::Flat)?,
    };
    Ok((restore, attend))
}
