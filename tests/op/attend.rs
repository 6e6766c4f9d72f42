//! Cases of `attend`.

use std::sync::Arc;

use anyhow::{Result, ensure};
use longwave_contract::kv::{Entry, PAGE, RowDesc, RowShape, Slot, ViewDesc};
use longwave_contract::op::Attend;
use longwave_contract::{Backend, Op};
use longwave_tests::rig::{Rig, Values, raw};

use super::{Case, record};

/// One sequence of a case.
#[derive(Clone, Copy)]
struct Part {
    /// Tokens in the cache, this step's included.
    length: u32,
    /// Rows of this step: the last of those tokens.
    rows: u32,
    /// Whether the view names slots, every second old token, instead of pages.
    sparse: bool,
}

#[derive(Clone)]
struct Shape {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    parts: Vec<Part>,
    /// Rows beyond those of the parts that do not count.
    spare: u32,
    values: Values,
    /// Seeds the order of the physical pages alone.
    pages: u64,
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case =
        |name: String, shape: Shape| cases.push(Case::new(name, move |rig| build(rig, &shape)));
    let plain = Shape {
        heads: 4,
        kv_heads: 4,
        head_dim: 64,
        parts: Vec::new(),
        spare: 0,
        values: Values::Flat,
        pages: 1,
    };
    let decode = |length| {
        vec![Part {
            length,
            rows: 1,
            sparse: false,
        }]
    };
    for length in [1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE, 1027] {
        case(
            format!("decode over {length} tokens"),
            Shape {
                parts: decode(length),
                ..plain.clone()
            },
        );
        let parts = vec![Part {
            length,
            rows: length.min(67),
            sparse: false,
        }];
        case(
            format!("chunk over {length} tokens"),
            Shape {
                parts,
                spare: 3,
                ..plain.clone()
            },
        );
    }
    for (heads, kv_heads, head_dim) in [
        (4, 1, 64),
        (8, 1, 128),
        (16, 2, 128),
        (9, 3, 64),
        (14, 2, 64),
        (6, 2, 80),
        (4, 2, 96),
        (2, 1, 256),
    ] {
        let shape = Shape {
            heads,
            kv_heads,
            head_dim,
            ..plain.clone()
        };
        let name = format!("{heads} heads on {kv_heads} of {head_dim}");
        case(
            format!("decode, {name}"),
            Shape {
                parts: decode(333),
                ..shape.clone()
            },
        );
        let parts = vec![Part {
            length: 333,
            rows: 40,
            sparse: false,
        }];
        case(format!("chunk, {name}"), Shape { parts, ..shape });
    }
    for (name, values) in [("peaked", Values::Peaked), ("equal", Values::Constant(0.5))] {
        case(
            format!("{name} values"),
            Shape {
                parts: decode(300),
                values,
                ..plain.clone()
            },
        );
    }
    let ragged = vec![
        Part {
            length: 90,
            rows: 1,
            sparse: false,
        },
        Part {
            length: 200,
            rows: 33,
            sparse: true,
        },
        Part {
            length: 1,
            rows: 1,
            sparse: false,
        },
        Part {
            length: 700,
            rows: 1,
            sparse: true,
        },
        Part {
            length: 64,
            rows: 64,
            sparse: false,
        },
    ];
    for head_dim in [64, 128] {
        let one = |index: u32| Part {
            length: 1 + index * index * 9,
            rows: 1,
            sparse: index % 3 == 2,
        };
        case(
            format!("decodes of 13 sequences, heads of {head_dim}"),
            Shape {
                heads: 8,
                kv_heads: 2,
                head_dim,
                parts: (0..13).map(one).collect(),
                spare: 3,
                ..plain.clone()
            },
        );
    }
    case(
        "ragged: decodes and chunks, dense and sparse".into(),
        Shape {
            heads: 8,
            kv_heads: 2,
            parts: ragged,
            spare: 5,
            ..plain
        },
    );
    cases
}

fn build(rig: &mut Rig, shape: &Shape) -> Result<Op> {
    let row = RowShape {
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
    };
    let pages: u32 = shape
        .parts
        .iter()
        .map(|part| part.length.div_ceil(PAGE))
        .sum::<u32>()
        + 2;
    let order = Rig::new(rig.backend(), shape.pages).permutation(pages);
    let mut free = order.into_iter();
    let (mut rows, mut views, mut entries, mut used) =
        (Vec::new(), Vec::new(), Vec::<Entry>::new(), Vec::new());
    for (index, part) in shape.parts.iter().enumerate() {
        let pages: Vec<u32> = free
            .by_ref()
            .take(part.length.div_ceil(PAGE) as usize)
            .collect();
        let slot = |position: u32| Slot::new(pages[(position / PAGE) as usize], position % PAGE).0;
        used.extend((0..part.length).map(slot));
        let first = entries.len() as u32;
        let old = part.length - part.rows;
        if part.sparse {
            entries.extend(
                (0..part.length)
                    .filter(|&p| p >= old || p % 2 == 0)
                    .map(|p| raw(slot(p))),
            );
        } else {
            entries.extend(pages.iter().map(|&page| raw(page)));
        }
        let length = if part.sparse {
            entries.len() as u32 - first
        } else {
            part.length
        };
        views.push(ViewDesc {
            first,
            length,
            last: part.length - 1,
            run: if part.sparse { 1 } else { PAGE },
        });
        rows.extend((old..part.length).map(|position| RowDesc {
            sequence: index as u32,
            position,
            slot: slot(position),
            view: index as u32,
            ..RowDesc::default()
        }));
    }
    let count = rows.len() as u32;
    rows.resize((count + shape.spare) as usize, RowDesc::default());
    let n = rows.len() as u32;
    let width = shape.heads * shape.head_dim;
    Ok(Attend {
        q: rig.f32(n, width, shape.values)?,
        kv: rig.cache(row, pages, &used, shape.values)?,
        rows: rig.rows(&rows)?,
        count: rig.count(count)?,
        views: rig.views(&views)?,
        entries: rig.entries(&entries)?,
        shape: row,
        scale: 1.0 / (shape.head_dim as f32).sqrt(),
        longest: views
            .iter()
            .map(|view| view.length)
            .max()
            .unwrap_or(1)
            .next_power_of_two(),
        out: rig.f32(n, width, Values::Flat)?,
    }
    .into())
}

/// Where pages lie must not change a single bit of the result.
pub(super) fn permuted_pages_are_bit_equal(subject: &Arc<dyn Backend>) -> Result<()> {
    for rows in [1, 50] {
        let run = |pages: u64| -> Result<Vec<u8>> {
            let parts = vec![Part {
                length: 500,
                rows,
                sparse: false,
            }];
            let shape = Shape {
                heads: 6,
                kv_heads: 2,
                head_dim: 64,
                parts,
                spare: 0,
                values: Values::Peaked,
                pages,
            };
            let mut rig = Rig::new(subject, 3);
            let op = build(&mut rig, &shape)?;
            let plan = subject.prepare(&record(op)?)?;
            let ticket = subject.run(plan)?;
            subject.wait(ticket)?;
            subject.release(plan);
            let Op::Attend(attend) = op else {
                anyhow::bail!("{} is no attend", op.name())
            };
            rig.read(attend.out)
        };
        let first = run(1)?;
        ensure!(first.iter().any(|&byte| byte != 0), "the op wrote nothing");
        ensure!(
            first == run(2)?,
            "{rows} rows: the order of pages changed the result"
        );
    }
    Ok(())
}
