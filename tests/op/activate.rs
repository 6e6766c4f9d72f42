//! Cases of `activate`, and that it is what its formula says.

use std::sync::Arc;

use anyhow::{Result, ensure};
use longwave_contract::op::{Activate, Activation};
use longwave_contract::{Backend, DType, Tensor};
use longwave_tests::network::activated;
use longwave_tests::rig::{Rig, Values};

use super::{Case, record};

#[derive(Clone, Copy)]
struct Shape {
    activation: Activation,
    rows: u32,
    count: u32,
    /// Columns of the result.
    cols: u32,
    /// Whether one row of base serves all.
    shared: bool,
    values: Values,
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for activation in [Activation::Gelu, Activation::SwiGlu] {
        let base = Shape {
            activation,
            rows: 1,
            count: 1,
            cols: 64,
            shared: false,
            values: Values::Flat,
        };
        let shapes = [
            ("one row", base),
            (
                "a few rows of 30 times the size",
                Shape {
                    rows: 17,
                    count: 15,
                    cols: 96,
                    values: Values::Peaked,
                    ..base
                },
            ),
            (
                "rows that are no whole quads",
                Shape {
                    rows: 9,
                    count: 8,
                    cols: 37,
                    ..base
                },
            ),
            (
                "one base for all",
                Shape {
                    rows: 33,
                    count: 33,
                    cols: 160,
                    shared: true,
                    values: Values::Peaked,
                    ..base
                },
            ),
            (
                "one base for all, of a single column",
                Shape {
                    rows: 130,
                    count: 129,
                    cols: 1,
                    shared: true,
                    ..base
                },
            ),
            (
                "more than the workgroups of an axis",
                Shape {
                    rows: 2048,
                    count: 2047,
                    cols: 2080,
                    ..base
                },
            ),
        ];
        cases.extend(shapes.map(|(name, shape)| {
            let name = format!("{name}, {activation:?}");
            Case::new(name, move |rig| Ok(build(rig, shape)?.into()))
        }));
        cases.push(Case::new(
            format!("far from zero, {activation:?}"),
            move |rig| Ok(far(rig, activation)?.into()),
        ));
    }
    cases
}

fn build(rig: &mut Rig, shape: Shape) -> Result<Activate> {
    let inputs = inputs(shape.activation, shape.cols);
    let bases = if shape.shared { 1 } else { shape.rows };
    Ok(Activate {
        change: rig.f32(shape.rows, inputs, shape.values)?,
        base: rig.f32(bases, inputs, shape.values)?,
        activation: shape.activation,
        count: rig.count(shape.count)?,
        out: rig.f32(shape.rows, shape.cols, Values::Constant(60_000.0))?,
    })
}

fn inputs(activation: Activation, cols: u32) -> u32 {
    activation.inputs(cols).unwrap_or(u32::MAX)
}

/// From far below zero to far above it, and as far as f16 goes.
const FAR: [f32; 17] = [
    -65_504.0, -100.0, -20.0, -9.0, -5.0, -2.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 2.0, 5.0, 9.0, 20.0,
    100.0, 65_504.0,
];

/// Each of them changed by each, a row for each pair, so that none hides behind a larger one.
fn far(rig: &mut Rig, activation: Activation) -> Result<Activate> {
    let pairs = || {
        FAR.iter()
            .flat_map(|base| FAR.map(|change| (*base, change)))
    };
    let (rows, inputs) = (FAR.len() * FAR.len(), inputs(activation, 1));
    let mut words = |values: Vec<f32>| -> Result<Tensor> {
        // The linear half of SwiGLU stays near 1.
        let row = |value: f32| [value, 0.75].into_iter().take(inputs as usize);
        let words: Vec<u32> = values.into_iter().flat_map(row).map(f32::to_bits).collect();
        rig.words(DType::F32, rows as u32, inputs, &words)
    };
    let change = words(pairs().map(|(_, change)| change).collect())?;
    let base = words(pairs().map(|(base, _)| base).collect())?;
    Ok(Activate {
        change,
        base,
        activation,
        count: rig.count(rows as u32)?,
        out: rig.f32(rows as u32, 1, Values::Constant(60_000.0))?,
    })
}

/// A backend gives what the formula gives in f64, where rows count, and nothing where nothing changes.
pub(super) fn is_what_it_says(backend: &Arc<dyn Backend>) -> Result<()> {
    for activation in [Activation::Gelu, Activation::SwiGlu] {
        let shape = Shape {
            activation,
            rows: 40,
            count: 38,
            cols: 90,
            shared: false,
            values: Values::Peaked,
        };
        let shared = Shape {
            shared: true,
            ..shape
        };
        let rig = &mut Rig::new(backend, 3);
        for op in [
            build(rig, shape)?,
            build(rig, shared)?,
            far(rig, activation)?,
        ] {
            let values = |rig: &Rig, tensor: Tensor| -> Result<Vec<Vec<f32>>> {
                let bytes = rig.read(tensor)?;
                let rows = bytes.chunks_exact(tensor.row_bytes() as usize);
                let row = |row| bytemuck::pod_collect_to_vec::<u8, f32>(row);
                Ok(rows
                    .map(|bytes| row(bytes)[..tensor.cols as usize].to_vec())
                    .collect())
            };
            let count = u32::from_le_bytes(rig.read(op.count)?[..4].try_into()?);
            let (change, base) = (values(rig, op.change)?, values(rig, op.base)?);
            run(backend, op)?;
            let found = values(rig, op.out)?;
            for (row, found) in found.iter().enumerate() {
                if row >= count as usize {
                    ensure!(
                        found.iter().all(|&value| value == 60_000.0),
                        "row {row} changed"
                    );
                    continue;
                }
                let before: Vec<f64> = base[row % base.len()]
                    .iter()
                    .copied()
                    .map(f64::from)
                    .collect();
                let sum = before.iter().zip(&change[row]);
                let after: Vec<f64> = sum.map(|(base, by)| base + f64::from(*by)).collect();
                let after = activated(activation, &after).into_iter();
                let expected: Vec<f32> = after
                    .zip(activated(activation, &before))
                    .map(|(after, before)| (after - before) as f32)
                    .collect();
                let worst = Activate::TOLERANCE.worst(&expected, found, expected.len());
                ensure!(
                    worst.is_some_and(|worst| worst.share <= 1.0),
                    "{activation:?}, row {row}: {worst:?} of {:?} by {:?}",
                    base[row % base.len()],
                    change[row]
                );
            }
            // The same with no change: zeros, not nearly zeros.
            let zeros = rig.f32(op.change.rows, op.change.cols, Values::Constant(0.0))?;
            run(
                backend,
                Activate {
                    change: zeros,
                    ..op
                },
            )?;
            let found = values(rig, op.out)?;
            let mut found = found.iter().take(count as usize).flatten();
            ensure!(
                found.all(|&value| value == 0.0),
                "{activation:?} makes something of nothing"
            );
        }
    }
    Ok(())
}

fn run(backend: &Arc<dyn Backend>, op: Activate) -> Result<()> {
    let plan = backend.prepare(&record(op.into())?)?;
    let ticket = backend.run(plan)?;
    backend.wait(ticket)?;
    Ok(())
}
