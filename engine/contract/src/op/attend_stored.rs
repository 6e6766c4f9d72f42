use super::refer::check_latents;
use super::{Attend, Operand, ROPE_LOW};
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::{ComponentDesc, LatentShape, RowDesc, RowShape, ScaleRule, StoreDesc};
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// [`Attend`] over tokens as they are stored, without restoring them to scratch rows: rows in blocks are quantised and rotated (KIVI's groups, arXiv
/// 2402.02750, behind QuaRot's Hadamard matrices, arXiv 2404.00456).
///
/// Row `i` reads the store that its descriptor's `view` names, and sees its tokens up to its own position. With `x` the row that is stored of a raw
/// token, and `mean + R z` of a token in a block, where `z` are its latents and `R` is [`AttendStored::rotation`] of each head:
/// `out[i, h] = sum_j softmax_j(scale * q[i, h] . rope(k_norm(k[j, g]))) v[j, g]` for `x[j] = [k | v]` and `g = h / (heads / kv_heads)`. A row that
/// sees nothing gives zeros.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttendStored {
    /// Roped queries, `f32[n, heads * head_dim]`.
    pub q: Tensor,
    /// Row descriptors, `u32[n, 8]`.
    pub rows: Tensor,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Where tokens lie, `u32[p, 8]`.
    pub stores: Tensor,
    /// Raw pages and blocks of all stores, `u32[1, e]`.
    pub entries: Tensor,
    /// Raw rows before the rotary embedding, `f16[slots, cols]`.
    pub raw: Tensor,
    /// The layer's mean, `f32[1, cols]`.
    pub mean: Tensor,
    /// How blocks are laid out: as many latents as columns, 4 or 8 bits each in their order, a scale for each of their groups, and nothing else.
    pub latent: LatentShape,
    /// The layer's blocks, `u32[blocks, words]`.
    pub latents: Tensor,
    /// Key head norm, `f32[1, head_dim]`.
    pub k_norm: Option<Tensor>,
    /// Added to mean squares before the root.
    pub epsilon: f32,
    /// Rotary table, `f32[256 + r, head_dim]`, for positions below `256 * r`.
    pub rope: Tensor,
    /// Shape of a row.
    pub shape: RowShape,
    /// Multiplies scores before the softmax, in most models `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// The most tokens that any row sees: what a kernel sizes its grid by.
    pub longest: u32,
    /// Result, `f32[n, heads * head_dim]`.
    pub out: Tensor,
}

impl AttendStored {
    /// The op's name.
    pub const NAME: &'static str = "attend_stored";
    /// As [`Attend::TOLERANCE`].
    pub const TOLERANCE: Tolerance = Attend::TOLERANCE;
    /// Latents that share a scale.
    pub const GROUP: u32 = 32;

    /// Element `(row, col)` of the Hadamard matrix that rotates heads of `head_dim` elements, orthonormal and its own inverse.
    pub fn rotation(head_dim: u32, row: u32, col: u32) -> f32 {
        let size = 1.0 / (head_dim as f32).sqrt();
        match (row & col).count_ones() % 2 {
            0 => size,
            _ => -size,
        }
    }

    /// Bits of a code.
    pub const fn bits(&self) -> u32 {
        self.latent.code_bits / self.latent.cols
    }

    /// How latent `index` is coded, by codes of `bits` bits around the middle of their range.
    pub fn component(index: u32, bits: u32) -> ComponentDesc {
        ComponentDesc {
            offset: index * bits,
            bits,
            step: 1.0,
            zero: ((1u32 << bits) - 1) as f32 / 2.0,
        }
    }

    pub(super) fn operands(&self) -> Vec<Operand> {
        let mut operands = vec![
            Operand::read("q", self.q),
            Operand::read("rows", self.rows),
            Operand::read("count", self.count),
            Operand::read("stores", self.stores),
            Operand::read("entries", self.entries),
            Operand::read("raw", self.raw),
            Operand::read("mean", self.mean),
            Operand::read("latents", self.latents),
        ];
        operands.extend(self.k_norm.map(|norm| Operand::read("k_norm", norm)));
        operands.extend([
            Operand::read("rope", self.rope),
            Operand::write("out", self.out),
        ]);
        operands
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (n, width) = (self.q.rows, self.q.cols);
        let (dim, kv_width) = (self.shape.head_dim, self.shape.width());
        let whole = kv_width > 0 && dim.is_power_of_two() && dim >= Self::GROUP;
        let heads = "heads of a power of two of elements, whole groups of them";
        check.holds("shape", whole, heads, dim)?;
        let grouped = width.is_multiple_of(kv_width) && width > 0;
        let heads = "a whole number of query heads for each key head";
        check.holds("q", grouped, heads, self.q)?;
        let finite = self.scale.is_finite();
        check.holds("scale", finite, "a finite number", self.scale)?;
        let some = self.longest > 0;
        check.holds("longest", some, "at least one token", self.longest)?;
        let LatentShape { cols, rank, .. } = self.latent;
        let plain = self.latent.rule == ScaleRule::Symmetric
            && self.latent.group == Self::GROUP
            && self.latent.references.is_none()
            && self.latent.escapes == 0
            && (cols, rank) == (self.shape.cols(), self.shape.cols())
            && [4, 8]
                .map(|bits| bits * cols)
                .contains(&self.latent.code_bits);
        let expected = "4 or 8 bits of each column in groups of 32, and nothing else";
        check.holds("latent", plain, expected, format_args!("{:?}", self.latent))?;
        check_latents(&check, &self.latent, self.latents)?;
        check.shape("q", self.q, DType::F32, n, width)?;
        check.shape("rows", self.rows, DType::U32, n, RowDesc::WORDS)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        let (stores, words) = (self.stores, StoreDesc::WORDS);
        check.shape("stores", stores, DType::U32, stores.rows, words)?;
        check.shape("entries", self.entries, DType::U32, 1, self.entries.cols)?;
        check.shape("raw", self.raw, DType::F16, self.raw.rows, cols)?;
        check.shape("mean", self.mean, DType::F32, 1, cols)?;
        check.optional("k_norm", self.k_norm, DType::F32, 1, dim)?;
        let rows = self.rope.rows;
        check.holds("rope", rows > ROPE_LOW, "more than 256 rows", self.rope)?;
        check.shape("rope", self.rope, DType::F32, rows, dim)?;
        check.shape("out", self.out, DType::F32, n, width)
    }
}
