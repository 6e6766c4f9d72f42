//! Times a step of a model of SmolLM2-135M's shape with random weights, op by op: `speed [rows] [context] [repeats]`.
//!
//! Without arguments, a decode step at context 512 and a prefill of 500 tokens.
#![expect(clippy::print_stdout, reason = "a program that reports figures")]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use longwave_contract::kv::{Entry, KeySpace, PAGE, RowDesc, RowShape, Tier, ViewDesc};
use longwave_contract::op::{
    Attend, Embed, GateUpSilu, LinearAdd, NormLinear, QkvRopeAppend, ROPE_LOW,
};
use longwave_contract::{Backend, BufferDesc, DType, Op, Recording, Tensor};
use longwave_cpu::CpuBackend;

const LAYERS: usize = 30;
const WIDTH: u32 = 576;
const HEADS: u32 = 9;
const SHAPE: RowShape = RowShape {
    kv_heads: 3,
    head_dim: 64,
};
const INNER: u32 = 1536;
const VOCABULARY: u32 = 49152;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Makes tensors of small random values.
struct Maker<'a> {
    backend: &'a CpuBackend,
    state: u64,
}

impl Maker<'_> {
    fn random(&mut self) -> u32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005) + 1_442_695_040_888_963_407;
        (self.state >> 33) as u32
    }

    fn zeros(&self, dtype: DType, rows: u32, cols: u32) -> Outcome<Tensor> {
        let desc = BufferDesc::of("speed", dtype, rows, cols);
        let buffer = self.backend.alloc(&desc)?;
        Ok(Tensor::new(buffer, dtype, rows, cols))
    }

    fn words(&self, dtype: DType, rows: u32, cols: u32, words: &[u32]) -> Outcome<Tensor> {
        let tensor = self.zeros(dtype, rows, cols)?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.backend.write(tensor.buffer, 0, &bytes)?;
        Ok(tensor)
    }

    /// Random codes; all scales are 2^-9 and minima -8 times that; f16 values are around 2^-6.
    fn weight(&mut self, dtype: DType, rows: u32, cols: u32) -> Outcome<Tensor> {
        let format = dtype.row_format(cols);
        let scale = match dtype {
            DType::Q4 | DType::Q8G32M => 0x1800 | 0xa400 << 16,
            _ => 0x1800 | 0x1800 << 16,
        };
        let mut words = Vec::new();
        for _ in 0..rows {
            for offset in (0..format.row_bytes).step_by(4) {
                words.push(match dtype {
                    DType::F16 => (self.random() & 0x83ff_83ff) | 0x2400_2400,
                    _ if offset < format.scale_offset => self.random() << 16 ^ self.random(),
                    _ => scale,
                });
            }
        }
        self.words(dtype, rows, cols, &words)
    }

    fn floats(&mut self, rows: u32, cols: u32, around: f32) -> Outcome<Tensor> {
        let values: Vec<u32> = (0..rows * cols)
            .map(|_| (around + self.random() as f32 / 2.0f32.powi(31) - 0.5).to_bits())
            .collect();
        self.words(DType::F32, rows, cols, &values)
    }
}

/// The ops of a step of `n` rows, the last at position `context - 1`.
fn model(backend: &CpuBackend, n: u32, context: u32) -> Outcome<Vec<Op>> {
    let mut maker = Maker { backend, state: 1 };
    let pages = context.div_ceil(PAGE);
    let rows: Vec<RowDesc> = (0..n)
        .map(|row| RowDesc {
            token: maker.random() % VOCABULARY,
            position: context - n + row,
            slot: context - n + row,
            ..RowDesc::default()
        })
        .collect();
    let rows = maker.words(DType::U32, n, RowDesc::WORDS, bytemuck::cast_slice(&rows))?;
    let view = ViewDesc {
        first: 0,
        length: context,
        last: context - 1,
        run: PAGE,
    };
    let views = maker.words(
        DType::U32,
        1,
        4,
        bytemuck::cast_slice(std::slice::from_ref(&view)),
    )?;
    let entries: Option<Vec<u32>> = (0..pages)
        .map(|page| Entry::new(Tier::Raw, page).map(|entry| entry.0))
        .collect();
    let entries = maker.words(DType::U32, 1, pages, &entries.ok_or("too many pages")?)?;
    let count = maker.words(DType::U32, 1, 1, &[n])?;
    let one = maker.words(DType::U32, 1, 1, &[1])?;
    let select = maker.words(DType::U32, 1, 1, &[n - 1])?;
    let rope = maker.floats(ROPE_LOW + context.div_ceil(ROPE_LOW), SHAPE.head_dim, 0.0)?;
    let norm = maker.floats(1, WIDTH, 1.0)?;
    let table = maker.weight(DType::Q8G32, VOCABULARY, WIDTH)?;
    let x = maker.zeros(DType::F32, n, WIDTH)?;
    let q = maker.zeros(DType::F32, n, WIDTH)?;
    let attended = maker.zeros(DType::F32, n, WIDTH)?;
    let inner = maker.zeros(DType::F32, n, INNER)?;
    let logits = maker.zeros(DType::F32, 1, VOCABULARY)?;
    let (kv_width, epsilon) = (SHAPE.width(), 1e-5);

    let mut ops: Vec<Op> = vec![
        Embed {
            table,
            rows,
            count,
            out: x,
        }
        .into(),
    ];
    for _ in 0..LAYERS {
        let kv = maker.weight(DType::F16, pages * PAGE, SHAPE.cols())?;
        ops.push(
            QkvRopeAppend {
                x,
                norm,
                epsilon,
                w_q: maker.weight(DType::Q4, WIDTH, WIDTH)?,
                w_k: maker.weight(DType::Q4, kv_width, WIDTH)?,
                w_v: maker.weight(DType::Q4, kv_width, WIDTH)?,
                b_q: None,
                b_k: None,
                b_v: None,
                q_norm: None,
                k_norm: None,
                rope,
                rows,
                count,
                shape: SHAPE,
                space: KeySpace::Roped,
                q,
                kv,
                staged: None,
            }
            .into(),
        );
        debug_assert_eq!(q.cols, HEADS * SHAPE.head_dim);
        ops.push(
            Attend {
                q,
                kv,
                rows,
                count,
                views,
                entries,
                shape: SHAPE,
                scale: 0.125,
                longest: context,
                out: attended,
            }
            .into(),
        );
        let mut add = |a: Tensor| -> Outcome<Op> {
            let weight = maker.weight(DType::Q4, WIDTH, a.cols)?;
            Ok(LinearAdd {
                a,
                weight,
                bias: None,
                count,
                x,
            }
            .into())
        };
        let (attention, feed_forward) = (add(attended)?, add(inner)?);
        ops.push(attention);
        ops.push(
            GateUpSilu {
                x,
                norm,
                epsilon,
                w_gate: maker.weight(DType::Q4, INNER, WIDTH)?,
                w_up: maker.weight(DType::Q4, INNER, WIDTH)?,
                count,
                out: inner,
            }
            .into(),
        );
        ops.push(feed_forward);
    }
    ops.push(
        NormLinear {
            x,
            select,
            norm,
            epsilon,
            weight: table,
            count: one,
            out: logits,
        }
        .into(),
    );
    Ok(ops)
}

/// The best time of several.
fn best(backend: &CpuBackend, ops: &[Op], repeats: usize) -> Outcome<(Duration, Vec<String>)> {
    let mut recording = Recording::new("speed");
    for op in ops {
        recording.push(*op)?;
    }
    let plan = backend.prepare(&recording)?;
    let kernels = backend.kernels(plan);
    let mut best = Duration::MAX;
    for _ in 0..repeats {
        let start = Instant::now();
        backend.wait(backend.run(plan)?)?;
        best = best.min(start.elapsed());
    }
    backend.release(plan);
    Ok((best, kernels))
}

fn report(n: u32, context: u32, repeats: usize) -> Outcome<()> {
    let backend = CpuBackend::new();
    let ops = model(&backend, n, context)?;
    let (whole, _) = best(&backend, &ops, repeats)?;
    println!(
        "{n} rows, context {context}: {:.2} ms, {:.1} tokens/s ({}, {})",
        whole.as_secs_f64() * 1e3,
        f64::from(n) / whole.as_secs_f64(),
        backend.caps().device,
        backend.caps().driver,
    );
    let mut by_kernel: BTreeMap<String, (usize, Duration)> = BTreeMap::new();
    for op in &ops {
        let (time, kernels) = best(&backend, &[*op], repeats)?;
        let name = match op {
            Op::LinearAdd(op) => format!("{} (k = {})", kernels.concat(), op.a.cols),
            _ => kernels.concat(),
        };
        let entry = by_kernel.entry(name).or_default();
        entry.0 += 1;
        entry.1 += time;
    }
    for (kernel, (times, total)) in by_kernel {
        println!(
            "  {kernel:32} {times:3} x {:9.1} us = {:8.2} ms",
            total.as_secs_f64() * 1e6 / times as f64,
            total.as_secs_f64() * 1e3,
        );
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let numbers: Result<Vec<u32>, _> = std::env::args().skip(1).map(|a| a.parse()).collect();
    match numbers?.as_slice() {
        [] => {
            report(1, 512, 10)?;
            report(500, 500, 3)
        }
        &[n, context] if n > 0 && n <= context => report(n, context, 5),
        &[n, context, repeats] if n > 0 && n <= context => report(n, context, repeats as usize),
        _ => Err("speed [rows] [context, at least rows] [repeats]".into()),
    }
}
