//! Operands whose content is known, plans that are given back, and two ops with what they should leave.

use std::sync::Arc;

use anyhow::{Result, ensure};
use half::f16;
use longwave_contract::op::{LinearAdd, NormLinear};
use longwave_contract::{Backend, BackendError, DType, Op, PlanId, Recording, Tensor};
use longwave_tests::rig::Rig;

/// How far a sum of products may be off, as a share of its row's largest, where the inputs are numbers that f16 holds.
const EXACT: f64 = 1e-4;
/// The same where a device rounds inputs to f16.
const ROUNDED: f64 = 2e-3;

/// Operands and plans on one backend, which go when it is dropped.
pub(crate) struct Bench {
    rig: Rig,
    plans: Vec<PlanId>,
}

impl Bench {
    pub(crate) fn new(backend: &Arc<dyn Backend>) -> Self {
        Bench {
            rig: Rig::new(backend, 7),
            plans: Vec::new(),
        }
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        self.rig.backend()
    }

    /// Makes operands of other kinds.
    pub(crate) fn rig(&mut self) -> &mut Rig {
        &mut self.rig
    }

    pub(crate) fn f32(&mut self, rows: &[Vec<f32>]) -> Result<Tensor> {
        let words: Vec<u32> = rows.iter().flatten().map(|value| value.to_bits()).collect();
        let (count, cols) = (rows.len() as u32, rows[0].len() as u32);
        self.rig.words(DType::F32, count, cols, &words)
    }

    pub(crate) fn f16(&mut self, rows: &[Vec<f32>]) -> Result<Tensor> {
        let (count, cols) = (rows.len() as u32, rows[0].len() as u32);
        self.rig.bytes(DType::F16, count, cols, &halves(rows))
    }

    pub(crate) fn read(&self, tensor: Tensor) -> Result<Vec<Vec<f32>>> {
        let bytes = self.rig.read(tensor)?;
        let row = |row: &[u8]| {
            let elements = row.chunks_exact(4).take(tensor.cols as usize);
            elements
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap_or_default()))
                .collect()
        };
        Ok(bytes.chunks(tensor.row_bytes() as usize).map(row).collect())
    }

    pub(crate) fn prepare(&mut self, ops: &[Op]) -> Result<PlanId, BackendError> {
        let mut recording = Recording::new("trial");
        for op in ops {
            recording.push(*op)?;
        }
        let plan = self.backend().prepare(&recording)?;
        self.plans.push(plan);
        Ok(plan)
    }

    /// Runs a plan to its end.
    pub(crate) fn finish(&self, plan: PlanId) -> Result<(), BackendError> {
        let ticket = self.backend().run(plan)?;
        self.backend().wait(ticket)
    }

    pub(crate) fn release(&mut self, plan: PlanId) {
        self.plans.retain(|held| *held != plan);
        self.backend().release(plan);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for plan in &self.plans {
            self.rig.backend().release(*plan);
        }
    }
}

/// Rows as f16, each padded as tensors' rows are.
pub(crate) fn halves(rows: &[Vec<f32>]) -> Vec<u8> {
    let pitch = DType::F16.row_bytes(rows[0].len() as u32) as usize;
    let row = |row: &Vec<f32>| {
        let halves = row.iter().map(|value| f16::from_f32(*value).to_le_bytes());
        let mut bytes: Vec<u8> = halves.flatten().collect();
        bytes.resize(pitch, 0);
        bytes
    };
    rows.iter().flat_map(row).collect()
}

/// Values between -1 and 1 that f16 holds exactly.
pub(crate) fn values(rows: usize, cols: usize, seed: usize) -> Vec<Vec<f32>> {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 513) as f32 / 256.0 - 1.0;
    (0..rows)
        .map(|row| (0..cols).map(|col| value(row * cols + col)).collect())
        .collect()
}

/// A sum of products in f64.
pub(crate) fn product(weight: &[f32], a: &[f32]) -> f64 {
    let products = weight
        .iter()
        .zip(a)
        .map(|(w, a)| f64::from(*w) * f64::from(*a));
    products.sum()
}

/// Fails where a value is off by more than a share of its row's largest.
pub(crate) fn close(found: &[Vec<f32>], expected: &[Vec<f64>], relative: f64) -> Result<()> {
    let (have, want) = (found.len(), expected.len());
    ensure!(have == want, "{have} rows, expected {want}");
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        let largest = expected
            .iter()
            .fold(1e-3, |most: f64, value| most.max(value.abs()));
        for (col, (found, expected)) in found.iter().zip(expected).enumerate() {
            let off = (f64::from(*found) - expected).abs();
            ensure!(
                off <= relative * largest,
                "[{row}, {col}]: {found}, expected {expected}"
            );
        }
    }
    Ok(())
}

/// As [`close`], with inputs that f16 holds.
pub(crate) fn exact(found: &[Vec<f32>], expected: &[Vec<f64>]) -> Result<()> {
    close(found, expected, EXACT)
}

/// A `linear_add` of one row: each run adds the same to it.
pub(crate) struct Sum {
    pub(crate) op: LinearAdd,
    start: Vec<f32>,
    step: Vec<f64>,
}

impl Sum {
    pub(crate) fn new(bench: &mut Bench, seed: usize) -> Result<Self> {
        let (a, weight) = (values(1, 32, seed), values(16, 32, seed + 1));
        let start = values(1, 16, seed + 2);
        let op = LinearAdd {
            a: bench.f32(&a)?,
            weight: bench.f16(&weight)?,
            bias: None,
            count: bench.rig().count(1)?,
            x: bench.f32(&start)?,
        };
        Ok(Sum {
            op,
            start: start.concat(),
            step: weight.iter().map(|weight| product(weight, &a[0])).collect(),
        })
    }

    /// Fails where the row is not what so many runs leave.
    pub(crate) fn check(&self, bench: &Bench, runs: u32) -> Result<()> {
        self.check_copy(bench, self.op.x, runs)
    }

    /// The same of a copy of the row.
    pub(crate) fn check_copy(&self, bench: &Bench, x: Tensor, runs: u32) -> Result<()> {
        let sums = self.start.iter().zip(&self.step);
        let sums = sums.map(|(start, step)| f64::from(*start) + f64::from(runs) * step);
        exact(&bench.read(x)?, &[sums.collect()])
    }

    /// Writes what was there before any run.
    pub(crate) fn restart(&self, bench: &Bench) -> Result<(), BackendError> {
        let (x, start) = (self.op.x, bytemuck::cast_slice(&self.start));
        bench.backend().write(x.buffer, x.offset, start)
    }
}

/// A `norm_linear`, which backends serve with working memory between two kernels, and its result.
pub(crate) struct Logits {
    pub(crate) op: NormLinear,
    expected: Vec<Vec<f64>>,
}

impl Logits {
    pub(crate) fn new(bench: &mut Bench, rows: usize) -> Result<Self> {
        let (width, outputs) = (64, 40);
        let (x, norm, weight) = (
            values(rows, width, rows),
            values(1, width, 10),
            values(outputs, width, 11),
        );
        let backwards: Vec<u32> = (0..rows as u32).rev().collect();
        let op = NormLinear {
            x: bench.f32(&x)?,
            select: bench.rig().words(DType::U32, 1, rows as u32, &backwards)?,
            norm: bench.f32(&norm)?,
            epsilon: 1e-6,
            weight: bench.f16(&weight)?,
            count: bench.rig().count(rows as u32)?,
            out: bench.f32(&vec![vec![0.0; outputs]; rows])?,
        };
        let row = |x: &Vec<f32>| {
            let square = product(x, x) / width as f64 + 1e-6;
            let normed = x.iter().zip(&norm[0]);
            let normed: Vec<f64> = normed
                .map(|(x, n)| f64::from(*x) * f64::from(*n) / square.sqrt())
                .collect();
            let output = |weight: &Vec<f32>| {
                let products = weight.iter().zip(&normed);
                products.map(|(w, n)| f64::from(*w) * n).sum()
            };
            weight.iter().map(output).collect()
        };
        Ok(Logits {
            op,
            expected: x.iter().rev().map(row).collect(),
        })
    }

    /// Fails where the result is not there.
    pub(crate) fn check(&self, bench: &Bench) -> Result<()> {
        let relative = match bench.backend().caps().half_products {
            true => ROUNDED,
            false => EXACT,
        };
        close(&bench.read(self.op.out)?, &self.expected, relative)
    }

    /// Takes the result away.
    pub(crate) fn clear(&self, bench: &Bench) -> Result<(), BackendError> {
        let out = self.op.out;
        let zeros = vec![0; out.bytes() as usize];
        bench.backend().write(out.buffer, out.offset, &zeros)
    }

    /// Runs a plan of it, and looks for its result.
    pub(crate) fn finish(&self, bench: &Bench, plan: PlanId) -> Result<()> {
        self.clear(bench)?;
        bench.finish(plan)?;
        self.check(bench)
    }

    /// Frees all operands.
    pub(crate) fn free(&self, bench: &mut Bench) {
        for operand in Op::from(self.op).operands() {
            bench.rig().free(operand.tensor);
        }
    }
}
