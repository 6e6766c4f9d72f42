use super::Operand;
use super::refer::check_latents;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::{BLOCK, BlockDesc, ComponentDesc, LatentShape};
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// The second part of compressing blocks: quantises latents into their codes, and keeps the worst tokens as exact rows.
///
/// Scales come about as [`crate::kv::ScaleRule`] says, rounded to f16. A latent becomes the code from 0 to `2^bits - 1` next to
/// `(value - m) / (s * step) + zero`, ties to even. A token's error is
///
/// `sum_j metric[j] * residual[j]^2 - sum_i energy[i] * z[i]^2 + sum_i energy[i] * (z[i] - restored z[i])^2`:
///
/// what the transform leaves out, and what the codes lose. The `escapes` tokens of a block with the largest, of equal ones the earlier, and
/// no references, are stored as exact rows too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pack {
    /// Latents, `f32[BLOCK * b, rank]`.
    pub z: Tensor,
    /// What the latents were made of, `f32[BLOCK * b, cols]`.
    pub residual: Tensor,
    /// Rows before the rotary embedding, `f16[s, cols]`.
    pub staged: Tensor,
    /// Blocks, `u32[b, 8]`.
    pub blocks: Tensor,
    /// How many blocks count, `u32[1, 1]`.
    pub count: Tensor,
    /// The sequence's blocks, `u32[1, e]`.
    pub entries: Tensor,
    /// The layer's mean, `f32[1, cols]`.
    pub mean: Tensor,
    /// Weights of an error of the row, `f32[1, cols]`.
    pub metric: Tensor,
    /// How latents are coded, `u32[rank, 4]`.
    pub components: Tensor,
    /// Weights of an error of the latents, `f32[1, rank]`.
    pub energy: Tensor,
    /// How blocks are laid out.
    pub shape: LatentShape,
    /// The layer's blocks, `u32[blocks, words]`: scales, codes and escapes are written.
    pub latents: Tensor,
}

impl Pack {
    /// The op's name.
    pub const NAME: &'static str = "pack";
    /// The same latents give the same codes, but that backends round differently half-way between two.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 0.0,
        relative: 0.0,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::read("z", self.z),
            Operand::read("residual", self.residual),
            Operand::read("staged", self.staged),
            Operand::read("blocks", self.blocks),
            Operand::read("count", self.count),
            Operand::read("entries", self.entries),
            Operand::read("mean", self.mean),
            Operand::read("metric", self.metric),
            Operand::read("components", self.components),
            Operand::read("energy", self.energy),
            Operand::read_write("latents", self.latents),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (b, cols, rank) = (self.blocks.rows, self.shape.cols, self.shape.rank);
        check_latents(&check, &self.shape, self.latents)?;
        check.shape("z", self.z, DType::F32, b * BLOCK, rank)?;
        check.shape("residual", self.residual, DType::F32, b * BLOCK, cols)?;
        check.shape("staged", self.staged, DType::F16, self.staged.rows, cols)?;
        check.shape("blocks", self.blocks, DType::U32, b, BlockDesc::WORDS)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("entries", self.entries, DType::U32, 1, self.entries.cols)?;
        check.shape("mean", self.mean, DType::F32, 1, cols)?;
        check.shape("metric", self.metric, DType::F32, 1, cols)?;
        let words = ComponentDesc::WORDS;
        check.shape("components", self.components, DType::U32, rank, words)?;
        check.shape("energy", self.energy, DType::F32, 1, rank)
    }
}
