use super::{LinearAdd, MATMUL_TOLERANCE, Operand, Rope, Tokens, Unpack};
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::kv::{LatentShape, RowShape};
use crate::tensor::{BufferId, Tensor};
use crate::tolerance::Tolerance;

/// All of restoring tokens, where the decoder is a matrix: [`Unpack`], [`LinearAdd`] and [`Rope`] in one op.
///
/// `x[i]` = the row that is stored, for a raw token, a reference and an escape; and for any other token the mean of its references (or `mean`), plus
/// the second row of `mean` where it has one, plus `decoder` times its latents, or its latents themselves where there is no decoder. Row
/// `first + i` of `kv`, or the slot that [`Tokens::Missing`] names, takes `K = rope(k_norm(k))` at the token's position and `V = v`, for
/// `x[i] = [k | v]`, in f16. Rows are numbered as [`Unpack`] says; rows beyond what a sequence restores are left as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Restore {
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
    /// Row capacity: the `n` of other ops, which no operand has here.
    pub rows: u32,
    /// Raw rows before the rotary embedding, `f16[slots, cols]`.
    pub raw: Tensor,
    /// The layer's mean, `f32[1, cols]`; or `f32[2, cols]`, as [`Unpack::mean`].
    pub mean: Tensor,
    /// How latents are coded, `u32[rank, 4]`.
    pub components: Tensor,
    /// How blocks are laid out.
    pub latent: LatentShape,
    /// The layer's blocks, `u32[blocks, words]`.
    pub latents: Tensor,
    /// Decoder `[cols, rank]`; without it, latents are the residual itself, and `rank` is `cols`.
    pub decoder: Option<Tensor>,
    /// Key head norm, `f32[1, head_dim]`.
    pub k_norm: Option<Tensor>,
    /// Added to mean squares before the root.
    pub epsilon: f32,
    /// Rotary table, `f32[256 + r, head_dim]`, for positions below `256 * r`.
    pub rope: Tensor,
    /// Shape of a row.
    pub shape: RowShape,
    /// Scratch rows, `f16[slots, 2 * kv_heads * head_dim]`.
    pub kv: Tensor,
}

impl Restore {
    /// The op's name.
    pub const NAME: &'static str = "restore";
    /// A sum of `rank` products, and one rounding to f16.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: MATMUL_TOLERANCE.absolute,
        relative: MATMUL_TOLERANCE.relative + Rope::TOLERANCE.relative,
    };

    /// The ops that are the same in turn, with latents in the buffer `z`, where there is a decoder, and rows in the buffer `x`: how a backend that has no
    /// kernels of its own for this op serves it.
    pub fn parts(&self, z: BufferId, x: BufferId) -> (Unpack, Option<LinearAdd>, Rope) {
        let x = Tensor::new(x, DType::F32, self.rows, self.latent.cols);
        let z = Tensor::new(z, DType::F32, self.rows, self.latent.rank);
        let unpack = Unpack {
            tokens: self.tokens,
            stores: self.stores,
            entries: self.entries,
            count: self.count,
            pitch: self.pitch,
            first: self.first,
            raw: self.raw,
            mean: self.mean,
            components: self.components,
            shape: self.latent,
            latents: self.latents,
            z: self.decoder.map(|_| z),
            out: x,
        };
        let product = self.decoder.map(|weight| LinearAdd {
            a: z,
            weight,
            bias: None,
            count: self.count,
            x,
        });
        let rope = Rope {
            x,
            tokens: self.tokens,
            stores: self.stores,
            count: self.count,
            pitch: self.pitch,
            first: self.first,
            k_norm: self.k_norm,
            epsilon: self.epsilon,
            rope: self.rope,
            shape: self.shape,
            kv: self.kv,
        };
        (unpack, product, rope)
    }

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
        operands.extend(
            self.decoder
                .map(|decoder| Operand::read("decoder", decoder)),
        );
        operands.extend(self.k_norm.map(|norm| Operand::read("k_norm", norm)));
        operands.extend([
            Operand::read("rope", self.rope),
            Operand::read_write("kv", self.kv),
        ]);
        operands
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let (cols, rank) = (self.latent.cols, self.latent.rank);
        check.holds("rows", self.rows > 0, "at least one row", self.rows)?;
        let whole = self.shape.cols() == cols;
        check.holds("shape", whole, "heads of as many columns as rows", cols)?;
        if let Some(decoder) = self.decoder {
            check.weight("decoder", decoder, cols, rank)?;
        }
        // What the parts check of their own operands; those of the working memory fit by their making.
        let (unpack, _, rope) = self.parts(self.kv.buffer, self.kv.buffer);
        unpack
            .check()
            .and(rope.check())
            .map_err(|error| CheckError {
                op: Self::NAME,
                ..error
            })
    }
}
