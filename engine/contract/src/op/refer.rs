use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::{BLOCK, BlockDesc, LatentShape};
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// The first part of compressing blocks (DeltaKV, section 3): what each token is taken against, and what is left of it.
///
/// With `x` the staged row of a token and `c` the rows of its references,
///
/// - each reference of a block (every `stride`-th token) enters `latents` as an exact row;
/// - the `neighbours` references with the least `sum_j metric[j] * (x[j] - c[j])^2`, of equal ones those with the lower ordinals, are named by
///   their ordinals in `latents`. Candidates are the sinks, the references of all earlier blocks, and those of the token's own block that
///   do not come after it, all as they are stored. Where there are fewer, the nearest one stands for the rest;
/// - `base[i]` is the mean of those, and `residual[i] = x - base[i]`. Without references, `base[i]` is `mean`.
///
/// Row `BLOCK * b + lane` of the results belongs to a token of block `b`. Residual and base of a token that is a reference are zero. Blocks of
/// one sequence follow each other in order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refer {
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
    /// Weights of the distance, none negative, `f32[1, cols]`.
    pub metric: Tensor,
    /// How blocks are laid out.
    pub shape: LatentShape,
    /// The layer's blocks, `u32[blocks, words]`: references and ordinals are written.
    pub latents: Tensor,
    /// Result, `f32[BLOCK * b, cols]`.
    pub residual: Tensor,
    /// Bases, `f32[BLOCK * b, cols]`, where they are asked for.
    pub base: Option<Tensor>,
}

impl Refer {
    /// The op's name.
    pub const NAME: &'static str = "refer";
    /// The mean of a few stored rows, and the difference of one from it.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 1e-6,
        relative: 1e-5,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        let mut operands = vec![
            Operand::read("staged", self.staged),
            Operand::read("blocks", self.blocks),
            Operand::read("count", self.count),
            Operand::read("entries", self.entries),
            Operand::read("mean", self.mean),
            Operand::read("metric", self.metric),
            Operand::read_write("latents", self.latents),
            Operand::write("residual", self.residual),
        ];
        operands.extend(self.base.map(|base| Operand::write("base", base)));
        operands
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (b, cols) = (self.blocks.rows, self.shape.cols);
        check_latents(&check, &self.shape, self.latents)?;
        check.shape("staged", self.staged, DType::F16, self.staged.rows, cols)?;
        check.shape("blocks", self.blocks, DType::U32, b, BlockDesc::WORDS)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("entries", self.entries, DType::U32, 1, self.entries.cols)?;
        check.shape("mean", self.mean, DType::F32, 1, cols)?;
        check.shape("metric", self.metric, DType::F32, 1, cols)?;
        check.shape("residual", self.residual, DType::F32, b * BLOCK, cols)?;
        check.optional("base", self.base, DType::F32, b * BLOCK, cols)
    }
}

/// The shape of blocks is sound, and the tensor has it.
pub(super) fn check_latents(
    check: &Check,
    shape: &LatentShape,
    latents: Tensor,
) -> Result<(), CheckError> {
    let columns = "columns in multiples of 32";
    check.holds(
        "shape",
        shape.cols.is_multiple_of(32) && shape.cols > 0,
        columns,
        shape.cols,
    )?;
    let groups = "a rank from 1 on, in groups of at least one latent";
    check.holds(
        "shape",
        shape.rank > 0 && shape.group > 0,
        groups,
        shape.rank,
    )?;
    if let Some(references) = shape.references {
        let found = format!("{references:?}");
        let stride = (2..=BLOCK).contains(&references.stride);
        let neighbours = (1..=8).contains(&references.neighbours);
        let expected = "a stride of 2 to 128 and 1 to 8 neighbours";
        check.holds("shape", stride && neighbours, expected, found)?;
    }
    check.holds(
        "shape",
        shape.escapes <= BLOCK,
        "at most 128 escapes",
        shape.escapes,
    )?;
    check.shape("latents", latents, DType::U32, latents.rows, shape.words())
}
