use super::Operand;
use super::refer::check_latents;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::{ComponentDesc, LatentShape, StoreDesc};
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// Which tokens are restored, and how their rows are numbered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tokens {
    /// All: row `r` is position `r % pitch` of sequence `r / pitch`, where that is below its store's `length`.
    All,
    /// Those of lists, `u32[p, m]`: row `r` is the position in column `r % pitch` of row `r / pitch`, where that column is below the store's
    /// `chosen`.
    Listed(Tensor),
    /// Those of [`super::Reside::misses`], `u32[n, 4]`: row `r` is what its row `r` names.
    Missing(Tensor),
}

impl Tokens {
    /// The tensor that names them.
    pub const fn tensor(self) -> Option<Tensor> {
        match self {
            Tokens::All => None,
            Tokens::Listed(tensor) | Tokens::Missing(tensor) => Some(tensor),
        }
    }
}

/// The first part of restoring tokens: their bases and latents.
///
/// Restored rows are numbered over all sequences, as [`Tokens`] says. Rows of the op are those from `first` on.
///
/// - A raw token (a sink or one of the tail), a reference and an escape give `out[i] = x`, the row that is stored, and `z[i] = 0`;
/// - any other token gives `out[i]` = the mean of its references (or `mean`), plus the second row of `mean` where it has one, and `z[i]` = its
///   latents;
/// - rows beyond what a sequence restores become zero.
///
/// Without `z`, latents are the residual itself (`rank` is `cols`) and are added to `out`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unpack {
    /// What is restored.
    pub tokens: Tokens,
    /// Where tokens lie, `u32[p, 8]`.
    pub stores: Tensor,
    /// Raw pages and blocks of all stores, `u32[1, e]`.
    pub entries: Tensor,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Rows from one sequence to the next.
    pub pitch: u32,
    /// The first row.
    pub first: u32,
    /// Raw rows before the rotary embedding, `f16[slots, cols]`.
    pub raw: Tensor,
    /// The layer's mean, `f32[1, cols]`; or `f32[2, cols]` with an offset of coded tokens below: what a decoder gives for latents of zero.
    pub mean: Tensor,
    /// How latents are coded, `u32[rank, 4]`.
    pub components: Tensor,
    /// How blocks are laid out.
    pub shape: LatentShape,
    /// The layer's blocks, `u32[blocks, words]`.
    pub latents: Tensor,
    /// Latents, `f32[n, rank]`.
    pub z: Option<Tensor>,
    /// Bases, `f32[n, cols]`.
    pub out: Tensor,
}

impl Unpack {
    /// The op's name.
    pub const NAME: &'static str = "unpack";
    /// A few products and a sum of up to eight stored rows.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 1e-6,
        relative: 1e-5,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        let mut operands = Vec::new();
        let tokens = self.tokens.tensor();
        operands.extend(tokens.map(|tokens| Operand::read("tokens", tokens)));
        operands.extend([
            Operand::read("stores", self.stores),
            Operand::read("entries", self.entries),
            Operand::read("count", self.count),
            Operand::read("raw", self.raw),
            Operand::read("mean", self.mean),
            Operand::read("components", self.components),
            Operand::read("latents", self.latents),
        ]);
        operands.extend(self.z.map(|z| Operand::write("z", z)));
        operands.push(Operand::write("out", self.out));
        operands
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (n, cols, rank) = (self.out.rows, self.shape.cols, self.shape.rank);
        check_latents(&check, &self.shape, self.latents)?;
        check.holds("pitch", self.pitch > 0, "at least one row", self.pitch)?;
        check_rows(&check, self.tokens, self.stores, self.count)?;
        check.shape("entries", self.entries, DType::U32, 1, self.entries.cols)?;
        let rows = match self.tokens {
            Tokens::Missing(misses) => misses.rows.into(),
            _ => u64::from(self.stores.rows) * u64::from(self.pitch),
        };
        let covered = u64::from(self.first) + u64::from(n) <= rows;
        check.holds("first", covered, "rows of the stores only", self.first)?;
        check.shape("raw", self.raw, DType::F16, self.raw.rows, cols)?;
        let rows = if self.mean.rows == 2 { 2 } else { 1 };
        check.shape("mean", self.mean, DType::F32, rows, cols)?;
        let words = ComponentDesc::WORDS;
        check.shape("components", self.components, DType::U32, rank, words)?;
        check.optional("z", self.z, DType::F32, n, rank)?;
        let direct = self.z.is_some() || rank == cols;
        check.holds("z", direct, "latents apart, or as many as columns", rank)?;
        check.shape("out", self.out, DType::F32, n, cols)
    }
}

/// The tensors by which restored rows are numbered.
pub(super) fn check_rows(
    check: &Check,
    tokens: Tokens,
    stores: Tensor,
    count: Tensor,
) -> Result<(), CheckError> {
    let p = stores.rows;
    match tokens {
        Tokens::All => {}
        Tokens::Listed(tokens) => check.shape("tokens", tokens, DType::U32, p, tokens.cols)?,
        Tokens::Missing(tokens) => check.shape("tokens", tokens, DType::U32, tokens.rows, 4)?,
    }
    check.shape("stores", stores, DType::U32, p, StoreDesc::WORDS)?;
    check.shape("count", count, DType::U32, 1, 1)
}
