//! Recordings: the numbers are right with every kernel, however a plan was cut.

use std::sync::Arc;

use half::f16;
use longwave_contract::kv::RowDesc;
use longwave_contract::op::{Embed, LinearAdd};
use longwave_contract::{
    Allocation, Backend, BackendError, BufferDesc, DType, Op, PlanId, Recording, Tensor,
};
use longwave_wgpu::{Force, MatmulKernel, WgpuOptions};

use super::{Case, Outcome, holds, open, same};

pub(super) const TRIALS: &[Case] = &[
    ("plans: embed, with a table in slabs", || {
        embed(|options| options.slab_limit = Some(4096))
    }),
    ("plans: linear_add, tile kernel", || linear_add(tile)),
    ("plans: linear_add, without subgroups", || {
        linear_add(|options| options.force.no_subgroup = true)
    }),
    ("plans: linear_add, with weights in slabs", || {
        linear_add(|options| options.slab_limit = Some(96 << 10))
    }),
    (
        "plans: long recordings are cut into submissions",
        long_recordings_are_cut,
    ),
];

fn tile(options: &mut WgpuOptions) {
    options.force = Force {
        matmul: Some(MatmulKernel::Tile),
        ..Force::default()
    };
}

/// Buffers with content.
struct Bench {
    backend: Arc<dyn Backend>,
    owned: Vec<Allocation>,
}

impl Bench {
    fn new(change: impl FnOnce(&mut WgpuOptions)) -> Result<Self, BackendError> {
        Ok(Bench {
            backend: Arc::new(open(change)?),
            owned: Vec::new(),
        })
    }

    /// A tensor with these rows, each padded.
    fn tensor(
        &mut self,
        dtype: DType,
        cols: u32,
        rows: &[Vec<u8>],
    ) -> Result<Tensor, BackendError> {
        let desc = BufferDesc::of("operand", dtype, rows.len() as u32, cols);
        let held = Allocation::new(&self.backend, &desc)?;
        let mut bytes = vec![0; desc.bytes as usize];
        for (target, row) in bytes.chunks_mut(desc.row as usize).zip(rows) {
            target[..row.len()].copy_from_slice(row);
        }
        self.backend.write(held.id(), 0, &bytes)?;
        let tensor = Tensor::new(held.id(), dtype, rows.len() as u32, cols);
        self.owned.push(held);
        Ok(tensor)
    }

    fn f32(&mut self, rows: &[Vec<f32>]) -> Result<Tensor, BackendError> {
        let bytes = rows
            .iter()
            .map(|row| row.iter().flat_map(|value| value.to_le_bytes()).collect());
        self.tensor(DType::F32, rows[0].len() as u32, &bytes.collect::<Vec<_>>())
    }

    fn f16(&mut self, rows: &[Vec<f32>]) -> Result<Tensor, BackendError> {
        let row = |row: &Vec<f32>| {
            row.iter()
                .flat_map(|value| f16::from_f32(*value).to_le_bytes())
                .collect()
        };
        self.tensor(
            DType::F16,
            rows[0].len() as u32,
            &rows.iter().map(row).collect::<Vec<_>>(),
        )
    }

    fn u32(&mut self, values: &[u32]) -> Result<Tensor, BackendError> {
        let row = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.tensor(DType::U32, values.len() as u32, &[row])
    }

    fn read(&self, tensor: Tensor) -> Result<Vec<Vec<f32>>, BackendError> {
        let mut bytes = vec![0; tensor.bytes() as usize];
        self.backend
            .read(tensor.buffer, tensor.offset, &mut bytes)?;
        let row = |row: &[u8]| {
            let elements = row.chunks_exact(4).take(tensor.cols as usize);
            elements
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap_or_default()))
                .collect()
        };
        Ok(bytes.chunks(tensor.row_bytes() as usize).map(row).collect())
    }

    fn prepare(&self, ops: &[Op]) -> Result<PlanId, BackendError> {
        let mut recording = Recording::new("test");
        for op in ops {
            recording.push(*op)?;
        }
        self.backend.prepare(&recording)
    }

    fn run(&self, plan: PlanId) -> Result<(), BackendError> {
        let ticket = self.backend.run(plan)?;
        self.backend.wait(ticket)
    }
}

/// Values between -1 and 1 that f16 holds exactly.
fn values(rows: usize, cols: usize, seed: usize) -> Vec<Vec<f32>> {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 513) as f32 / 256.0 - 1.0;
    (0..rows)
        .map(|row| (0..cols).map(|col| value(row * cols + col)).collect())
        .collect()
}

fn close(found: &[Vec<f32>], expected: &[Vec<f64>], relative: f64) -> Outcome {
    same(found.len(), expected.len(), "rows")?;
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        let size = expected
            .iter()
            .fold(1e-3, |most: f64, value| most.max(value.abs()));
        for (col, (found, expected)) in found.iter().zip(expected).enumerate() {
            let off = (f64::from(*found) - expected).abs();
            holds(
                off <= relative * size,
                format!("[{row}, {col}]: {found}, expected {expected}"),
            )?;
        }
    }
    Ok(())
}

fn product(weight: &[f32], a: &[f32]) -> f64 {
    let products = weight
        .iter()
        .zip(a)
        .map(|(w, a)| f64::from(*w) * f64::from(*a));
    products.sum()
}

pub(super) fn embed(change: impl FnOnce(&mut WgpuOptions)) -> Outcome {
    let mut bench = Bench::new(change)?;
    // Five slabs of 32 rows where they are cut at 4096 bytes.
    let table = values(150, 64, 1);
    let tokens = [149, 0, 31, 32, 150, 77];
    let row = |token: u32| {
        [token, 0, 0, 0, 0, 0, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    };
    let rows = tokens.map(row);
    let op = Embed {
        table: bench.f16(&table)?,
        rows: bench.tensor(DType::U32, RowDesc::WORDS, &rows)?,
        count: bench.u32(&[5])?,
        out: bench.f32(&values(6, 64, 2))?,
    };
    let before = bench.read(op.out)?;
    let plan = bench.prepare(&[op.into()])?;
    bench.run(plan)?;
    let found = bench.read(op.out)?;
    for (row, token) in tokens.iter().enumerate() {
        let expected = match row {
            5 => before[5].clone(),
            _ => table
                .get(*token as usize)
                .cloned()
                .unwrap_or_else(|| vec![0.0; 64]),
        };
        same(found[row].clone(), expected, &format!("row {row}"))?;
    }
    let kernels = bench.backend.kernels(plan);
    holds(
        !kernels.is_empty()
            && kernels
                .iter()
                .all(|name| name.starts_with("embed: embed[weight_f16")),
        format!("{kernels:?}"),
    )
}

fn linear_add(change: impl FnOnce(&mut WgpuOptions)) -> Outcome {
    let mut bench = Bench::new(change)?;
    for (rows, counted) in [(1, 1), (5, 4), (70, 67)] {
        // At 96 KiB the weights are cut in two, and nothing else is.
        let (width, k) = (290, 288);
        let (a, weight, bias, x) = (
            values(rows, k, 3),
            values(width, k, 4),
            values(1, width, 5),
            values(rows, width, 6),
        );
        let op = LinearAdd {
            a: bench.f32(&a)?,
            weight: bench.f16(&weight)?,
            bias: (rows != 5).then(|| bench.f32(&bias)).transpose()?,
            count: bench.u32(&[counted as u32])?,
            x: bench.f32(&x)?,
        };
        let plan = bench.prepare(&[op.into()])?;
        bench.run(plan)?;
        let expected = |row: usize, col: usize| {
            let added =
                product(&weight[col], &a[row]) + op.bias.map_or(0.0, |_| f64::from(bias[0][col]));
            f64::from(x[row][col]) + if row < counted { added } else { 0.0 }
        };
        let expected: Vec<Vec<f64>> = (0..rows)
            .map(|row| (0..width).map(|col| expected(row, col)).collect())
            .collect();
        close(&bench.read(op.x)?, &expected, 1e-5)?;
        let cut = bench.backend.caps().slab_limit < 128 << 10;
        same(
            bench.backend.kernels(plan).len(),
            if cut { 2 } else { 1 },
            "dispatches",
        )?;
        bench.backend.release(plan);
    }
    Ok(())
}

fn long_recordings_are_cut() -> Outcome {
    let mut bench = Bench::new(|_| ())?;
    let (a, weight, x) = (values(1, 32, 7), values(16, 32, 8), values(1, 16, 9));
    let op = LinearAdd {
        a: bench.f32(&a)?,
        weight: bench.f16(&weight)?,
        bias: None,
        count: bench.u32(&[1])?,
        x: bench.f32(&x)?,
    };
    let plan = bench.prepare(&[Op::from(op); 500])?;
    same(bench.backend.kernels(plan).len(), 500, "dispatches")?;
    let before = bench.backend.run(bench.prepare(&[])?)?;
    let after = bench.backend.run(plan)?;
    bench.backend.wait(after)?;
    let submissions = after.0 - before.0;
    holds(
        (3..=100).contains(&submissions),
        format!("{submissions} submissions"),
    )?;
    let expected = (0..16).map(|col| f64::from(x[0][col]) + 500.0 * product(&weight[col], &a[0]));
    close(&bench.read(op.x)?, &[expected.collect()], 1e-4)
}
