//! Makes small model files for tests, here and in the tests crate. Nothing of the engine uses it.

use super::GgmlType;
use super::gguf::{Array, Value};

/// A small deterministic source of numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % (limit as u64).max(1)) as usize
    }

    /// A number from -1 to 1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }
}

/// Elements of `rows` rows of `cols` columns as they lie in a file: arbitrary codes, and scales and floats that are finite and at most
/// about 1. `None` when `cols` is not a whole number of blocks.
pub fn random_rows(
    kind: GgmlType,
    rows: usize,
    cols: usize,
    random: &mut Random,
) -> Option<Vec<u8>> {
    let pitch = usize::try_from(kind.row_bytes(cols as u64)?).ok()?;
    let mut bytes: Vec<u8> = (0..pitch.checked_mul(rows)?)
        .map(|_| (random.bits() >> 32) as u8)
        .collect();
    for block in bytes.chunks_exact_mut(kind.block_bytes() as usize) {
        let halves: &[usize] = match kind {
            GgmlType::F32 => {
                block.copy_from_slice(&random.float().to_le_bytes());
                &[]
            }
            GgmlType::Bf16 => {
                block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes());
                &[]
            }
            GgmlType::F16 | GgmlType::Q8_0 | GgmlType::Q4_0 | GgmlType::Q5_0 => &[0],
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => &[0, 2],
            GgmlType::Q6K => &[208],
        };
        for &offset in halves {
            if let Some(place) = block.get_mut(offset..offset + 2) {
                place.copy_from_slice(&half::f16::from_f32(random.float()).to_le_bytes());
            }
        }
    }
    Some(bytes)
}

/// Writes GGUF files. It checks nothing, so that it can write wrong ones.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    /// The format's version.
    pub version: u32,
    /// What tensor data is aligned to; `general.alignment` must say so if it is not 32.
    pub alignment: usize,
    /// Keys and values in order.
    pub metadata: Vec<(String, Value)>,
    /// Tensors in order.
    pub tensors: Vec<RawTensor>,
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct RawTensor {
    /// Its name.
    pub name: String,
    /// Its shape, outermost first.
    pub shape: Vec<u64>,
    /// The number of its element type.
    pub type_id: u32,
    /// Its data.
    pub bytes: Vec<u8>,
    /// Its offset in the data, if not the next that is free.
    pub offset: Option<u64>,
}

impl GgufWriter {
    /// A file of version 3 with `general.architecture` and nothing else.
    pub fn new(architecture: &str) -> Self {
        let writer = GgufWriter {
            version: 3,
            alignment: 32,
            metadata: Vec::new(),
            tensors: Vec::new(),
        };
        writer.with("general.architecture", Value::Str(architecture.to_owned()))
    }

    /// Adds a key.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.metadata.push((key.to_owned(), value));
        self
    }

    /// Adds a tensor; `shape` is outermost first.
    pub fn with_tensor(
        mut self,
        name: &str,
        shape: &[u64],
        kind: GgmlType,
        bytes: Vec<u8>,
    ) -> Self {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.tensors.push(RawTensor {
            name,
            shape,
            type_id: kind.id(),
            bytes,
            offset: None,
        });
        self
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut out, key);
            out.extend(value.type_id().to_le_bytes());
            put_value(&mut out, value);
        }
        let mut data: Vec<u8> = Vec::new();
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for size in tensor.shape.iter().rev() {
                out.extend(size.to_le_bytes());
            }
            out.extend(tensor.type_id.to_le_bytes());
            pad(&mut data, self.alignment);
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
        }
        pad(&mut out, self.alignment);
        out.extend(data);
        out
    }
}

fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment.max(1)), 0);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.extend(value.to_le_bytes()),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::Str(value) => put_string(out, value),
        Value::Array(value) => put_array(out, value),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.type_id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(items) => out.extend(items),
        Array::I8(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
        Array::U16(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
        Array::I16(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
        Array::U32(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
        Array::I32(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
        Array::F32(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
        Array::Bool(items) => out.extend(items.iter().map(|&item| u8::from(item))),
        Array::Str(items) => items.iter().for_each(|item| put_string(out, item)),
        Array::Array(items) => items.iter().for_each(|item| put_array(out, item)),
        Array::U64(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
        Array::I64(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
        Array::F64(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
    }
}

/// A safetensors file with these tensors of `F32`, `F16` or `BF16`: name, shape, element type, data.
pub fn safetensors_bytes(tensors: &[(&str, &[u64], GgmlType, &[u8])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for &(name, shape, kind, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(
            name.to_owned(),
            serde_json::json!({ "dtype": kind.name(), "shape": shape, "data_offsets": offsets }),
        );
        data.extend(bytes);
    }
    let json = serde_json::Value::Object(header).to_string();
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.as_bytes());
    out.extend(data);
    out
}

/// One wrong file made from a right one: a few bytes changed, set to extremes, cut out, doubled, or the end cut off. Changes fall into
/// the first `header` bytes.
pub fn mutate(bytes: &[u8], header: usize, random: &mut Random) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        let header = header.min(out.len());
        let at = random.below(header);
        let length = 1 + random.below(8);
        let end = (at + length).min(out.len());
        match random.below(7) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..end)),
            2 => {
                let copy = out.get(at..end).unwrap_or_default().to_vec();
                drop(out.splice(at..at, copy));
            }
            kind => {
                for byte in out.get_mut(at..end).unwrap_or_default() {
                    match kind {
                        3 => *byte = 0xff,
                        4 => *byte = 0,
                        5 => *byte ^= 1 << random.below(8),
                        _ => *byte = random.bits() as u8,
                    }
                }
            }
        }
    }
    out
}

/// A directory of a unit test's own, removed at its end.
#[cfg(test)]
pub(super) struct Scratch(std::path::PathBuf);

#[cfg(test)]
impl Scratch {
    pub(super) fn new(name: &str) -> std::io::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("longwave-format-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.0
    }

    pub(super) fn write(
        &self,
        name: &str,
        bytes: impl AsRef<[u8]>,
    ) -> std::io::Result<std::path::PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    }
}

#[cfg(test)]
impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in the system's temporary directory does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
