//! What a backend reaches on its device at best, measured by the same run: the bounds that results are held against.
//!
//! These are no limits of the hardware. The bandwidth is the better of a copy on the device, which a driver makes, and of the backend's own product
//! of a large matrix with a vector; the rate of multiply-adds is that of the backend's own product of two matrices, added to a third. A kernel that gets better may
//! raise them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use longwave_contract::op::{Linear, LinearAdd};
use longwave_contract::{
    Allocation, Backend, BufferDesc, DType, DeviceKind, Op, Recording, Tensor,
};
use longwave_runtime::calibrate;
use serde::Serialize;

/// A measurement of less is repeated more often in one go: starting and waiting cost up to a tenth of a millisecond.
const LEAST: Duration = Duration::from_millis(20);
/// Seconds of the longest product of matrices that is tried.
const LONGEST: f64 = 0.5;
/// Measurements, of which the best counts.
const ROUNDS: usize = 3;

/// Bounds of one backend on one device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ceiling {
    /// Bytes a second.
    pub bandwidth: f64,
    /// What reached it: `copy`, read and write counted, or `linear`.
    pub bandwidth_by: &'static str,
    /// Floating-point operations a second: a multiplication with an addition is two.
    pub flops: f64,
}

impl Ceiling {
    /// Measures them.
    ///
    /// # Errors
    /// There is no room, or the device fails.
    pub fn measure(backend: &Arc<dyn Backend>) -> Result<Self> {
        let caps = backend.caps();
        let hosted = matches!(caps.kind, DeviceKind::Cpu | DeviceKind::Software);
        // Well beyond caches.
        let bytes: u64 = match caps.memory {
            Some(free) if !hosted && free > 8 << 30 => 1 << 30,
            _ => 128 << 20,
        };
        let copy = copies(backend, bytes)?;
        let columns = 4096;
        let rows = (bytes / 2 / u64::from(columns)) as u32;
        let matvec = linear(backend, 1, rows, columns, false)?;
        let matvec = matvec * bytes as f64 / (2.0 * f64::from(rows) * f64::from(columns));
        let (bandwidth, bandwidth_by) = match matvec > copy {
            true => (matvec, "linear"),
            false => (copy, "copy"),
        };
        Ok(Ceiling {
            bandwidth,
            bandwidth_by,
            flops: products(backend)?,
        })
    }
}

/// Bytes a second that copies read and write.
fn copies(backend: &Arc<dyn Backend>, bytes: u64) -> Result<f64> {
    let desc = BufferDesc {
        label: "to be copied".into(),
        bytes,
        row: Tensor::ALIGN,
    };
    let (from, to) = (
        Allocation::new(backend, &desc)?,
        Allocation::new(backend, &desc)?,
    );
    let mut word = [0u8; 4];
    let best = best_seconds(&mut |times| {
        for _ in 0..times {
            backend.copy((from.id(), 0), (to.id(), 0), bytes)?;
        }
        Ok(backend.read(to.id(), 0, &mut word)?)
    })?;
    Ok(2.0 * bytes as f64 / best)
}

/// The best rate of products of square matrices, from small ones to ones that take long enough.
fn products(backend: &Arc<dyn Backend>) -> Result<f64> {
    let mut best = 0.0f64;
    for size in [256u32, 512, 1024, 2048, 4096, 8192] {
        let rate = linear(backend, size, size, size, true)?;
        best = best.max(rate);
        let seconds = 2.0 * f64::from(size).powi(3) / rate;
        // The next one takes eight times as long.
        if seconds * 8.0 > LONGEST {
            break;
        }
    }
    Ok(best)
}

/// Floating-point operations a second of `rows` rows times an f16 matrix, added to what was there where it `adds`. Values are drawn: zeros would draw less power, and clocks would rise.
fn linear(
    backend: &Arc<dyn Backend>,
    rows: u32,
    outputs: u32,
    inputs: u32,
    adds: bool,
) -> Result<f64> {
    let mut owned = Vec::new();
    let mut tensor = |label: &str, dtype, rows, cols| -> Result<Tensor> {
        let buffer = Allocation::new(backend, &BufferDesc::of(label, dtype, rows, cols))?;
        let tensor = Tensor::new(buffer.id(), dtype, rows, cols);
        owned.push(buffer);
        Ok(tensor)
    };
    let a = drawn(backend, tensor("input", DType::F32, rows, inputs)?)?;
    let weight = drawn(backend, tensor("matrix", DType::F16, outputs, inputs)?)?;
    let count = tensor("count", DType::U32, 1, 1)?;
    let out = tensor("result", DType::F32, rows, outputs)?;
    let bias = None;
    let op: Op = match adds {
        true => LinearAdd {
            a,
            weight,
            bias,
            count,
            x: out,
        }
        .into(),
        false => Linear {
            a,
            weight,
            bias,
            count,
            out,
        }
        .into(),
    };
    backend.write(count.buffer, 0, &rows.to_le_bytes())?;
    let mut recording = Recording::new("ceiling");
    recording.push(op)?;
    let plan = backend.prepare(&recording)?;
    let best = best_seconds(&mut |times| {
        let mut last = None;
        for _ in 0..times {
            last = Some(backend.run(plan)?);
        }
        Ok(last.map_or(Ok(()), |ticket| backend.wait(ticket))?)
    });
    backend.release(plan);
    Ok(2.0 * f64::from(rows) * f64::from(outputs) * f64::from(inputs) / best?)
}

/// Fills a tensor of floats with drawn values of either sign, one to two in size: a block of them, again and again.
fn drawn(backend: &Arc<dyn Backend>, tensor: Tensor) -> Result<Tensor> {
    const BLOCK: u32 = 1 << 20;
    // Sign and fraction stay as they are drawn, the exponent is that of 1.
    let (keep, one) = match tensor.dtype {
        DType::F16 => (0x83ff_83ff, 0x3c00_3c00),
        _ => (0x807f_ffff, 0x3f80_0000),
    };
    let words = calibrate::draw(BLOCK as usize, u32::MAX);
    let words: Vec<u32> = words.iter().map(|word| word << 1 & keep | one).collect();
    let desc = BufferDesc::of("drawn values", DType::U32, 1, BLOCK);
    let block = Allocation::new(backend, &desc)?;
    backend.write(block.id(), 0, bytemuck::cast_slice(&words))?;
    let mut at = 0;
    while at < tensor.bytes() {
        let bytes = desc.bytes.min(tensor.bytes() - at);
        backend.copy((block.id(), 0), (tensor.buffer, at), bytes)?;
        at += bytes;
    }
    Ok(tensor)
}

/// The least seconds of one of the `times` that `run` is asked for, after one to warm up.
pub fn best_seconds(run: &mut dyn FnMut(u32) -> Result<()>) -> Result<f64> {
    run(1)?;
    let start = Instant::now();
    run(1)?;
    let once = start.elapsed().max(Duration::from_micros(1));
    let times = LEAST.as_nanos().div_ceil(once.as_nanos()).min(1000) as u32;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        run(times)?;
        best = best.min(start.elapsed().as_secs_f64() / f64::from(times));
    }
    Ok(best.max(1e-9))
}
