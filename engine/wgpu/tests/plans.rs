//! Recordings: the numbers are right, however a plan was cut, and plans notice what is gone.

use std::sync::Arc;

use half::f16;
use longwave_contract::kv::RowDesc;
use longwave_contract::op::{Embed, LinearAdd, NormLinear};
use longwave_contract::{
    Allocation, Backend, BackendError, BufferDesc, DType, Op, PlanId, Recording, Tensor, Ticket,
};
use longwave_wgpu::{Force, MatmulKernel, WgpuOptions};

use super::{Case, Outcome, holds, open, same};

pub(super) const TRIALS: &[Case] = &[
    ("plans: embed", || embed(|_| ())),
    ("plans: embed, with a table in slabs", || {
        embed(|options| options.slab_limit = Some(4096))
    }),
    ("plans: linear_add", || linear_add(|_| ())),
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
    (
        "plans: runs again and again add up, until a buffer is gone",
        runs_add_up,
    ),
    (
        "plans: each op of a profile has its time",
        profiles_time_each_op,
    ),
    (
        "plans: scratch memory is shared and grows",
        scratch_memory_grows,
    ),
    (
        "plans: no memory for scratch is an error",
        no_memory_for_scratch,
    ),
    (
        "plans: freed buffers and released plans are noticed",
        gone_things_are_noticed,
    ),
    (
        "plans: operands outside of their buffer are refused",
        operands_outside_are_refused,
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

/// From the third run on, a plan is encoded before it runs.
fn runs_add_up() -> Outcome {
    let mut bench = Bench::new(|_| ())?;
    let (a, weight, x) = (values(1, 32, 7), values(16, 32, 8), values(1, 16, 9));
    let op = LinearAdd {
        a: bench.f32(&a)?,
        weight: bench.f16(&weight)?,
        bias: None,
        count: bench.u32(&[1])?,
        x: bench.f32(&x)?,
    };
    let plan = bench.prepare(&[Op::from(op)])?;
    for runs in 1..=5 {
        bench.run(plan)?;
        let sum =
            |col: usize| f64::from(x[0][col]) + f64::from(runs) * product(&weight[col], &a[0]);
        let expected: Vec<f64> = (0..16).map(sum).collect();
        close(&bench.read(op.x)?, &[expected], 1e-5)?;
    }
    // What was written between two runs lies between them.
    let first = bench.backend.run(plan)?;
    bench
        .backend
        .write(op.x.buffer, op.x.offset, bytemuck::cast_slice(&x[0]))?;
    let second = bench.backend.run(plan)?;
    holds(first.0 < second.0, "runs are numbered in order")?;
    bench.backend.wait(second)?;
    let sum = |col: usize| f64::from(x[0][col]) + product(&weight[col], &a[0]);
    let expected: Vec<f64> = (0..16).map(sum).collect();
    close(&bench.read(op.x)?, &[expected], 1e-5)?;
    bench.owned.clear();
    holds(
        bench.backend.run(plan).is_err(),
        "a plan ran whose buffers were freed",
    )
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

fn profiles_time_each_op() -> Outcome {
    let mut bench = Bench::new(|_| ())?;
    let (op, expected) = norm_linear(&mut bench, 3)?;
    // More ops than a submission takes, each of two dispatches.
    let plan = bench.prepare(&[Op::from(op); 150])?;
    let result = bench.backend.profile(plan);
    if !bench.backend.caps().timestamps {
        let refused = matches!(result, Err(BackendError::Unsupported { .. }));
        return holds(refused, format!("{result:?}"));
    }
    let times = result?;
    same(times.len(), 150, "times")?;
    let all: u64 = times.iter().sum();
    holds(
        all > 0 && all < 100_000_000_000,
        format!("{all} nanoseconds"),
    )?;
    close(&bench.read(op.out)?, &expected, 1e-4)?;
    bench.backend.release(plan);
    let gone = bench.backend.profile(plan);
    let noticed = matches!(gone, Err(BackendError::BadHandle { .. }));
    holds(noticed, format!("{gone:?}"))
}

/// Logits of all rows, and what they should be.
fn norm_linear(
    bench: &mut Bench,
    rows: usize,
) -> Result<(NormLinear, Vec<Vec<f64>>), BackendError> {
    let (width, outputs) = (64, 40);
    let (x, norm, weight) = (
        values(rows, width, rows),
        values(1, width, 10),
        values(outputs, width, 11),
    );
    let op = NormLinear {
        x: bench.f32(&x)?,
        select: bench.u32(&(0..rows as u32).rev().collect::<Vec<_>>())?,
        norm: bench.f32(&norm)?,
        epsilon: 1e-6,
        weight: bench.f16(&weight)?,
        count: bench.u32(&[rows as u32])?,
        out: bench.f32(&vec![vec![0.0; outputs]; rows])?,
    };
    let row = |x: &Vec<f32>| {
        let square = product(x, x) / width as f64 + 1e-6;
        let normed: Vec<f64> = x
            .iter()
            .zip(&norm[0])
            .map(|(x, n)| f64::from(*x) * f64::from(*n) / square.sqrt())
            .collect();
        let output = |weight: &Vec<f32>| {
            weight
                .iter()
                .zip(&normed)
                .map(|(w, n)| f64::from(*w) * n)
                .sum()
        };
        weight.iter().map(output).collect()
    };
    Ok((op, x.iter().rev().map(row).collect()))
}

fn scratch_memory_grows() -> Outcome {
    let mut bench = Bench::new(|_| ())?;
    let (small, small_expected) = norm_linear(&mut bench, 2)?;
    let (large, large_expected) = norm_linear(&mut bench, 100)?;
    let without = bench.backend.allocated();
    let first = bench.prepare(&[small.into()])?;
    bench.run(first)?;
    close(&bench.read(small.out)?, &small_expected, 1e-5)?;
    let second = bench.prepare(&[large.into()])?;
    // The first plan's bindings were to a buffer that is no more.
    bench.backend.write(small.out.buffer, 0, &[0; 320])?;
    bench.run(first)?;
    bench.run(second)?;
    close(&bench.read(small.out)?, &small_expected, 1e-5)?;
    close(&bench.read(large.out)?, &large_expected, 1e-5)?;
    bench.backend.release(first);
    bench.run(second)?;
    bench.backend.release(second);
    let left = bench.backend.allocated() - without;
    // Only the buffer for reads, which stays.
    holds(left <= 64 << 10, format!("{left} bytes are left"))
}

fn no_memory_for_scratch() -> Outcome {
    let mut bench = Bench::new(|options| options.memory_limit = Some(64 << 10))?;
    let (small, expected) = norm_linear(&mut bench, 2)?;
    let plan = bench.prepare(&[small.into()])?;
    let (large, _) = norm_linear(&mut bench, 80)?;
    let refused = bench.prepare(&[large.into()]);
    holds(
        matches!(refused, Err(BackendError::OutOfMemory { .. })),
        format!("{refused:?}"),
    )?;
    // What was there before may have to be made again, for which there is room once the large operands are gone: the old plan does.
    bench.owned.truncate(6);
    bench.run(plan)?;
    close(&bench.read(small.out)?, &expected, 1e-5)?;
    bench.backend.release(plan);
    let plan = bench.prepare(&[small.into()])?;
    bench.run(plan)?;
    close(&bench.read(small.out)?, &expected, 1e-5)
}

fn gone_things_are_noticed() -> Outcome {
    let mut bench = Bench::new(|_| ())?;
    let (op, _) = norm_linear(&mut bench, 2)?;
    let plan = bench.prepare(&[op.into()])?;
    let other = bench.prepare(&[op.into()])?;
    bench.run(plan)?;
    bench.backend.release(other);
    let bad = |outcome: Result<Ticket, BackendError>, what: &str| {
        let found = format!("{what}: {outcome:?}");
        holds(
            matches!(outcome, Err(BackendError::BadHandle { .. })),
            found,
        )
    };
    bad(bench.backend.run(other), "a released plan")?;
    same(
        bench.backend.kernels(other),
        Vec::new(),
        "kernels of a released plan",
    )?;
    let late = Ticket(1_000_000);
    bad(
        bench.backend.wait(late).map(|()| late),
        "a run that never was",
    )?;
    bench.owned.remove(0);
    bad(bench.backend.run(plan), "a plan without its buffer")?;
    bad(bench.backend.run(plan), "the same again")?;
    same(bench.backend.kernels(plan).len(), 2, "kernels")?;
    bad(
        bench.prepare(&[op.into()]).map(|_| late),
        "a recording without its buffer",
    )
}

fn operands_outside_are_refused() -> Outcome {
    let mut bench = Bench::new(|_| ())?;
    let (op, _) = norm_linear(&mut bench, 2)?;
    let refused = |op: NormLinear, what: &str| {
        let outcome = bench.prepare(&[op.into()]);
        let found = format!("{what}: {outcome:?}");
        holds(
            matches!(outcome, Err(BackendError::BadHandle { .. })),
            found,
        )
    };
    refused(
        NormLinear {
            x: op.x.at(256),
            ..op
        },
        "past the end",
    )?;
    refused(
        NormLinear {
            x: op.x.at(u64::MAX - 255),
            ..op
        },
        "past all addresses",
    )?;
    refused(
        NormLinear {
            x: Tensor { rows: 3, ..op.x },
            ..op
        },
        "too many rows",
    )
}
