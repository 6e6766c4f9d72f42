//! Finding the first op at which two backends part.

use crate::backend::{Backend, BackendError};
use crate::dtype::DType;
use crate::op::Op;
use crate::recording::Recording;
use crate::tensor::Tensor;
use crate::tolerance::{Excess, Tolerance};

/// One side of a comparison: a backend, and a recording that names its buffers.
#[derive(Clone, Copy)]
pub struct Trace<'a> {
    /// Who runs the recording.
    pub backend: &'a dyn Backend,
    /// What is run.
    pub recording: &'a Recording,
}

/// How closely one output of one op agreed.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Index of the op in the recording.
    pub index: usize,
    /// The op's name.
    pub op: &'static str,
    /// The operand that was written.
    pub operand: &'static str,
    /// The element that came closest to its bound, or exceeded it. Integers agree exactly or not at all.
    pub worst: Option<Excess>,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// Every output that was compared, in order, up to and including the first that does not agree.
    pub agreements: Vec<Agreement>,
    /// Whether the last of them is out of tolerance.
    pub diverged: bool,
}

/// Why two recordings could not be compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DivergenceError {
    /// The recordings differ in more than their buffers.
    #[error("the recordings differ at op {index}: {reference} against {subject}")]
    Recordings {
        /// Index of the op.
        index: usize,
        /// The reference's op and shapes.
        reference: String,
        /// The other's.
        subject: String,
    },
    /// A backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Runs a recording op by op on two backends and compares what each op wrote, within the op's tolerance, until one disagrees.
///
/// The comparison is teacher-forced: after each op, the reference's outputs replace the subject's, so an error is found where it arises and not
/// where it has grown. Both sides must hold the same inputs.
///
/// # Errors
/// When the recordings differ in ops, shapes or types, or a backend fails.
pub fn first_divergence(
    reference: Trace<'_>,
    subject: Trace<'_>,
) -> Result<Divergence, DivergenceError> {
    let (left, right) = (reference.recording.ops(), subject.recording.ops());
    for index in 0..left.len().max(right.len()) {
        let describe = |op: Option<&Op>| op.map_or("nothing".into(), signature);
        let (a, b) = (describe(left.get(index)), describe(right.get(index)));
        if a != b {
            return Err(DivergenceError::Recordings {
                index,
                reference: a,
                subject: b,
            });
        }
    }
    let mut agreements = Vec::new();
    for (index, (a, b)) in left.iter().zip(right).enumerate() {
        run_one(reference.backend, *a)?;
        run_one(subject.backend, *b)?;
        for (written, other) in a
            .operands()
            .iter()
            .zip(b.operands())
            .filter(|(o, _)| o.access.writes())
        {
            let expected = read(reference.backend, written.tensor)?;
            let found = read(subject.backend, other.tensor)?;
            let bound = a.tolerance(subject.backend.caps());
            let worst = worst(bound, written.tensor, &expected, &found);
            let exceeded = worst.is_some_and(|worst| worst.share > 1.0);
            agreements.push(Agreement {
                index,
                op: a.name(),
                operand: written.name,
                worst,
            });
            if exceeded {
                return Ok(Divergence {
                    agreements,
                    diverged: true,
                });
            }
            subject
                .backend
                .write(other.tensor.buffer, other.tensor.offset, &expected)?;
        }
    }
    Ok(Divergence {
        agreements,
        diverged: false,
    })
}

/// An op's name and the types and shapes of its operands.
fn signature(op: &Op) -> String {
    let operands: Vec<String> = op
        .operands()
        .iter()
        .map(|o| format!("{} {}", o.name, o.tensor))
        .collect();
    format!("{}({})", op.name(), operands.join(", "))
}

fn run_one(backend: &dyn Backend, op: Op) -> Result<(), BackendError> {
    let mut recording = Recording::new("trace");
    recording.push(op)?;
    let plan = backend.prepare(&recording)?;
    let outcome = backend.run(plan).and_then(|ticket| backend.wait(ticket));
    backend.release(plan);
    outcome
}

fn read(backend: &dyn Backend, tensor: Tensor) -> Result<Vec<u8>, BackendError> {
    let mut bytes = vec![0u8; tensor.bytes() as usize];
    backend.read(tensor.buffer, tensor.offset, &mut bytes)?;
    Ok(bytes)
}

fn worst(bound: Tolerance, tensor: Tensor, expected: &[u8], found: &[u8]) -> Option<Excess> {
    let (left, right) = (floats(tensor, expected), floats(tensor, found));
    let mut worst = bound.worst(&left, &right, tensor.cols as usize)?;
    if tensor.dtype == DType::U32 {
        // As floats, large integers that differ may look alike.
        let pitch = tensor.row_bytes() as usize;
        let words =
            |bytes: &[u8], row: usize| bytes[row * pitch..][..4 * tensor.cols as usize].to_vec();
        let differs = |row: &usize| words(expected, *row) != words(found, *row);
        worst.share = 0.0;
        if let Some(row) = (0..tensor.rows as usize).find(differs) {
            let (expected, found) = (words(expected, row), words(found, row));
            let pairs = expected.chunks(4).zip(found.chunks(4));
            let col = pairs.take_while(|(a, b)| a == b).count();
            let at = row * tensor.cols as usize + col;
            worst = Excess {
                row,
                col,
                expected: left[at],
                found: right[at],
                share: f32::INFINITY,
            };
        }
    }
    Some(worst)
}

/// The elements of an f32, f16 or u32 tensor as f32, row padding left out.
fn floats(tensor: Tensor, bytes: &[u8]) -> Vec<f32> {
    let (pitch, cols) = (tensor.row_bytes() as usize, tensor.cols as usize);
    let size = tensor.dtype.bits() as usize / 8;
    let rows = bytes
        .chunks(pitch)
        .flat_map(|row| row[..cols * size].chunks(size));
    rows.map(|element| match (tensor.dtype, element) {
        (DType::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
        (DType::U32, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]) as f32,
        (_, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        _ => f32::NAN,
    })
    .collect()
}
