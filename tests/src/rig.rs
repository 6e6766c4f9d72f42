//! Operands for ops: seeded values in buffers of one backend.

use std::sync::Arc;

use anyhow::Result;
use half::f16;
use longwave_contract::kv::{Entry, PAGE, PickDesc, RowDesc, RowShape, Tier, ViewDesc};
use longwave_contract::op::ROPE_LOW;
use longwave_contract::{Allocation, Backend, BufferDesc, DType, Tensor};

/// What values look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Even between -1 and 1.
    Flat,
    /// Mostly small, one in sixteen thirty times as large.
    Peaked,
    /// The same number everywhere.
    Constant(f32),
}

/// Elements of a weight matrix after which its rows repeat: more would only take time.
const LARGE: u64 = 1 << 22;

/// Makes the operands of one op on one backend. Two rigs with the same calls hold the same values.
pub struct Rig {
    backend: Arc<dyn Backend>,
    owned: Vec<Allocation>,
    state: u64,
}

impl Rig {
    /// A rig whose values follow from `seed`.
    pub fn new(backend: &Arc<dyn Backend>, seed: u64) -> Self {
        Rig {
            backend: Arc::clone(backend),
            owned: Vec::new(),
            state: seed,
        }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// 64 bits by SplitMix64 (Steele, Lea, Flood 2014).
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        (self.bits() % u64::from(limit.max(1))) as u32
    }

    /// One value.
    pub fn value(&mut self, values: Values) -> f32 {
        let flat = (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        match values {
            Values::Flat => flat,
            Values::Peaked if self.below(16) == 0 => 30.0 * flat,
            Values::Peaked => flat,
            Values::Constant(value) => value,
        }
    }

    /// A tensor that holds exactly `bytes`, which include row padding.
    pub fn bytes(&mut self, dtype: DType, rows: u32, cols: u32, bytes: &[u8]) -> Result<Tensor> {
        let allocation = Allocation::new(
            &self.backend,
            &BufferDesc::of("test operand", dtype, rows, cols),
        )?;
        self.backend.write(allocation.id(), 0, bytes)?;
        let tensor = Tensor::new(allocation.id(), dtype, rows, cols);
        self.owned.push(allocation);
        Ok(tensor)
    }

    /// A tensor of 32-bit words, row by row.
    pub fn words(&mut self, dtype: DType, rows: u32, cols: u32, words: &[u32]) -> Result<Tensor> {
        let pitch = dtype.row_bytes(cols) as usize / 4;
        let mut padded = vec![0u32; pitch * rows as usize];
        for (target, source) in padded.chunks_mut(pitch).zip(words.chunks(cols as usize)) {
            target[..source.len()].copy_from_slice(source);
        }
        self.bytes(dtype, rows, cols, bytemuck::cast_slice(&padded))
    }

    /// Seeded `f32` values.
    pub fn f32(&mut self, rows: u32, cols: u32, values: Values) -> Result<Tensor> {
        let words: Vec<u32> = (0..rows * cols)
            .map(|_| self.value(values).to_bits())
            .collect();
        self.words(DType::F32, rows, cols, &words)
    }

    /// `f32` values that are near 1, as norm weights are.
    pub fn norm(&mut self, cols: u32) -> Result<Tensor> {
        let words: Vec<u32> = (0..cols)
            .map(|_| (1.0 + 0.3 * self.value(Values::Flat)).to_bits())
            .collect();
        self.words(DType::F32, 1, cols, &words)
    }

    /// A table of one `u32`.
    pub fn count(&mut self, count: u32) -> Result<Tensor> {
        self.words(DType::U32, 1, 1, &[count])
    }

    /// A weight matrix of any type: random codes, random scales of either sign that keep sums of `cols` products near 1. Rows of large ones repeat.
    pub fn weight(&mut self, dtype: DType, rows: u32, cols: u32) -> Result<Tensor> {
        let format = dtype.row_format(cols);
        let spread = 2.0 / (cols as f32).sqrt();
        let size = (format.row_bytes * u64::from(rows)) as usize;
        let mut bytes = Vec::with_capacity(size);
        for row in 0..rows {
            let start = bytes.len();
            if u64::from(row) * u64::from(cols) >= LARGE {
                bytes.extend_from_within(..start.min(size - start));
                if bytes.len() == size {
                    break;
                }
                continue;
            }
            if dtype == DType::F16 {
                for _ in 0..cols {
                    let value = self.value(Values::Flat) * spread;
                    bytes.extend(f16::from_f32(value).to_le_bytes());
                }
            } else {
                let codes = u64::from(cols) * dtype.bits() / 8;
                while ((bytes.len() - start) as u64) < codes {
                    bytes.extend(self.bits().to_le_bytes());
                }
                bytes.truncate(start + codes as usize);
                bytes.resize(start + format.scale_offset as usize, 0);
                let largest = if dtype == DType::Q4 { 15.0 } else { 127.0 };
                for _ in 0..cols / dtype.group().unwrap_or(32) {
                    let scale = self.value(Values::Flat) * spread / largest;
                    bytes.extend(f16::from_f32(scale).to_le_bytes());
                    if dtype.has_minimum() {
                        let minimum =
                            -scale * largest * 0.5 + self.value(Values::Flat) * 0.1 * spread;
                        bytes.extend(f16::from_f32(minimum).to_le_bytes());
                    }
                }
            }
            bytes.resize(start + format.row_bytes as usize, 0);
        }
        self.bytes(dtype, rows, cols, &bytes)
    }

    /// The rotary table of a head for this many positions.
    pub fn rope_table(&mut self, head_dim: u32, positions: u32) -> Result<Tensor> {
        let high = positions.div_ceil(ROPE_LOW);
        let table: Vec<u32> = (0..ROPE_LOW + high)
            .flat_map(|row| {
                let position = if row < ROPE_LOW {
                    row
                } else {
                    (row - ROPE_LOW) * ROPE_LOW
                };
                let angle = move |pair: u32| {
                    f64::from(position)
                        * 10_000f64.powf(-2.0 * f64::from(pair) / f64::from(head_dim))
                };
                let half = head_dim / 2;
                (0..head_dim).map(move |col| {
                    if col < half {
                        angle(col).cos()
                    } else {
                        angle(col - half).sin()
                    }
                })
            })
            .map(|value| (value as f32).to_bits())
            .collect();
        self.words(DType::F32, ROPE_LOW + high, head_dim, &table)
    }

    /// Row descriptors.
    pub fn rows(&mut self, rows: &[RowDesc]) -> Result<Tensor> {
        self.words(
            DType::U32,
            rows.len() as u32,
            RowDesc::WORDS,
            bytemuck::cast_slice(rows),
        )
    }

    /// Picks.
    pub fn picks(&mut self, picks: &[PickDesc]) -> Result<Tensor> {
        self.words(
            DType::U32,
            picks.len() as u32,
            PickDesc::WORDS,
            bytemuck::cast_slice(picks),
        )
    }

    /// Views.
    pub fn views(&mut self, views: &[ViewDesc]) -> Result<Tensor> {
        self.words(
            DType::U32,
            views.len() as u32,
            4,
            bytemuck::cast_slice(views),
        )
    }

    /// Entries.
    pub fn entries(&mut self, entries: &[Entry]) -> Result<Tensor> {
        self.words(
            DType::U32,
            1,
            entries.len() as u32,
            bytemuck::cast_slice(entries),
        )
    }

    /// `pages` pages of raw rows. Slots that are not in `used` hold a large finite poison.
    pub fn cache(
        &mut self,
        shape: RowShape,
        pages: u32,
        used: &[u32],
        values: Values,
    ) -> Result<Tensor> {
        let cols = shape.cols();
        let pitch = shape.raw_bytes() as usize;
        let mut bytes = f16::from_f32(60_000.0)
            .to_le_bytes()
            .repeat(pitch / 2 * (pages * PAGE) as usize);
        for &slot in used {
            for col in 0..cols as usize {
                let at = slot as usize * pitch + col * 2;
                let value = f16::from_f32(self.value(values));
                bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
            }
        }
        self.bytes(DType::F16, pages * PAGE, cols, &bytes)
    }

    /// The numbers `0..count` in a seeded order.
    pub fn permutation(&mut self, count: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count).collect();
        for last in (1..count).rev() {
            let other = self.below(last + 1);
            order.swap(last as usize, other as usize);
        }
        order
    }

    /// Gives a tensor's buffer back before the others.
    pub fn free(&mut self, tensor: Tensor) {
        self.owned
            .retain(|allocation| allocation.id() != tensor.buffer);
    }

    /// What a tensor holds, as bytes with row padding.
    pub fn read(&self, tensor: Tensor) -> Result<Vec<u8>> {
        let mut bytes = vec![0; tensor.bytes() as usize];
        self.backend
            .read(tensor.buffer, tensor.offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// The entry of a raw page or slot.
///
/// # Panics
/// When the index needs more than 29 bits, which no test's does.
pub fn raw(index: u32) -> Entry {
    Entry::new(Tier::Raw, index).expect("indices of tests are small")
}
