//! Every op against a naive implementation in f64, written here from the contract's formulas and byte layouts alone.
#![expect(
    clippy::unwrap_used,
    reason = "a failure to set a case up fails the test"
)]

mod attend;
mod host;
mod linear;
mod pick;
mod qkv;
mod sample;

use half::f16;
use longwave_contract::kv::{RowDesc, ViewDesc};
use longwave_contract::{
    Backend, BackendError, BufferDesc, CheckError, DType, Op, Recording, Tensor, Tolerance,
};

use crate::CpuBackend;

/// Roundings of f32 blocks, well below what the contract allows between backends.
const TIGHT: Tolerance = Tolerance {
    absolute: 1e-7,
    relative: 1e-6,
};

/// A tensor on the backend and its elements.
struct Case {
    tensor: Tensor,
    values: Vec<f64>,
}

impl Case {
    fn row(&self, row: usize) -> &[f64] {
        let cols = self.tensor.cols as usize;
        &self.values[row * cols..][..cols]
    }
}

/// A backend and a source of random numbers.
struct Stage {
    backend: CpuBackend,
    state: u64,
}

impl Stage {
    fn new() -> Self {
        Stage {
            backend: CpuBackend::new(),
            state: 7,
        }
    }

    fn random(&mut self) -> u32 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 32) as u32
    }

    /// Evenly between -1 and 1.
    fn even(&mut self) -> f32 {
        self.random() as f32 / 2.0f32.powi(31) - 1.0
    }

    fn upload(&self, dtype: DType, rows: u32, cols: u32, bytes: &[u8]) -> Tensor {
        let desc = BufferDesc::of("case", dtype, rows, cols);
        let buffer = self.backend.alloc(&desc).unwrap();
        self.backend.write(buffer, 0, bytes).unwrap();
        Tensor::new(buffer, dtype, rows, cols)
    }

    fn u32s(&self, rows: u32, cols: u32, values: &[u32]) -> Tensor {
        let pitch = DType::U32.row_bytes(cols) as usize;
        let mut bytes = vec![0u8; pitch * rows as usize];
        for (row, values) in bytes.chunks_mut(pitch).zip(values.chunks(cols as usize)) {
            row[..4 * cols as usize].copy_from_slice(bytemuck::cast_slice(values));
        }
        self.upload(DType::U32, rows, cols, &bytes)
    }

    fn count(&self, count: u32) -> Tensor {
        self.u32s(1, 1, &[count])
    }

    fn rows(&self, rows: &[RowDesc]) -> Tensor {
        self.u32s(
            rows.len() as u32,
            RowDesc::WORDS,
            bytemuck::cast_slice(rows),
        )
    }

    fn views(&self, views: &[ViewDesc]) -> Tensor {
        self.u32s(views.len() as u32, 4, bytemuck::cast_slice(views))
    }

    /// Random elements of any type; padding holds NaNs, which no op may read.
    fn case(&mut self, dtype: DType, rows: u32, cols: u32) -> Case {
        let format = dtype.row_format(cols);
        let mut bytes = vec![0xffu8; (format.row_bytes * u64::from(rows)) as usize];
        for row in bytes.chunks_mut(format.row_bytes as usize) {
            let (codes, scales) = row.split_at_mut(format.scale_offset as usize);
            let groups = cols / dtype.group().unwrap_or(cols);
            for group in 0..groups as usize {
                let scale = f16::from_f32(0.01 * (1.5 + self.even()));
                let minimum = f16::from_f32(-0.1 + 0.02 * self.even());
                if dtype.has_minimum() {
                    scales[4 * group..][..2].copy_from_slice(&scale.to_le_bytes());
                    scales[4 * group + 2..][..2].copy_from_slice(&minimum.to_le_bytes());
                } else if dtype.group().is_some() {
                    scales[2 * group..][..2].copy_from_slice(&scale.to_le_bytes());
                }
            }
            match dtype {
                DType::F32 => (0..cols as usize).for_each(|col| {
                    codes[4 * col..][..4].copy_from_slice(&self.even().to_le_bytes());
                }),
                DType::F16 => (0..cols as usize).for_each(|col| {
                    let value = f16::from_f32(self.even());
                    codes[2 * col..][..2].copy_from_slice(&value.to_le_bytes());
                }),
                _ => codes.fill_with(|| self.random() as u8),
            }
        }
        let tensor = self.upload(dtype, rows, cols, &bytes);
        let values = decode(tensor, &bytes);
        Case { tensor, values }
    }

    fn run(&self, op: impl Into<Op>) -> Result<(), BackendError> {
        self.run_named(op).map(|_| ())
    }

    /// Runs an op and gives its kernel.
    fn run_named(&self, op: impl Into<Op>) -> Result<String, BackendError> {
        let mut recording = Recording::new("case");
        recording.push(op)?;
        let plan = self.backend.prepare(&recording)?;
        self.backend.wait(self.backend.run(plan)?)?;
        Ok(self.backend.kernels(plan).concat())
    }

    fn read(&self, tensor: Tensor) -> Vec<f64> {
        let mut bytes = vec![0; tensor.bytes() as usize];
        self.backend
            .read(tensor.buffer, tensor.offset, &mut bytes)
            .unwrap();
        decode(tensor, &bytes)
    }
}

/// The elements of a tensor's bytes, as the contract lays them out.
fn decode(tensor: Tensor, bytes: &[u8]) -> Vec<f64> {
    let format = tensor.dtype.row_format(tensor.cols);
    let mut values = Vec::new();
    for row in bytes.chunks(format.row_bytes as usize) {
        let half = |at: usize| f64::from(f16::from_le_bytes([row[at], row[at + 1]]));
        for e in 0..tensor.cols as usize {
            let scales = format.scale_offset as usize;
            values.push(match tensor.dtype {
                DType::F32 => f64::from(f32::from_le_bytes(row[4 * e..][..4].try_into().unwrap())),
                DType::U32 => f64::from(u32::from_le_bytes(row[4 * e..][..4].try_into().unwrap())),
                DType::F16 => half(2 * e),
                DType::Q4 => {
                    let code = (row[e / 2] >> (4 * (e % 2))) & 15;
                    let pair = scales + e / 32 * 4;
                    half(pair) * f64::from(code) + half(pair + 2)
                }
                DType::Q8G32 => half(scales + e / 32 * 2) * f64::from(row[e] as i8),
                DType::Q8G16 => half(scales + e / 16 * 2) * f64::from(row[e] as i8),
                DType::Q8G32M => {
                    let pair = scales + e / 32 * 4;
                    half(pair) * f64::from(row[e]) + half(pair + 2)
                }
            });
        }
    }
    values
}

/// Every element is within the tolerance of what is expected.
fn assert_close(name: &str, tolerance: Tolerance, found: &[f64], expected: &[f64], cols: u32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let [found, expected] = [found, expected].map(|values| values.iter().map(|v| *v as f32));
    let (found, expected): (Vec<f32>, Vec<f32>) = (found.collect(), expected.collect());
    let worst = tolerance.worst(&expected, &found, cols as usize).unwrap();
    assert!(worst.share <= 1.0, "{name}: {worst:?}");
}

/// `weight * input`.
fn times(weight: &Case, input: &[f64]) -> Vec<f64> {
    let rows = weight.values.chunks(weight.tensor.cols as usize);
    rows.map(|row| row.iter().zip(input).map(|(w, x)| w * x).sum())
        .collect()
}

/// `weight .* x / rms(x)`.
fn normed(x: &[f64], weight: &[f64], epsilon: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let rms = (mean + f64::from(epsilon)).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / rms * w).collect()
}

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// The operand that an error names.
fn operand(result: Result<(), BackendError>) -> &'static str {
    match result {
        Err(BackendError::Check(CheckError { operand, .. })) => operand,
        other => panic!("expected an error about an operand, found {other:?}"),
    }
}
