//! Slots, pages, and the shape of a raw row.

use crate::dtype::DType;

/// Tokens of a page.
pub const PAGE: u32 = 32;

/// The address of a token's row within a tier: `page * PAGE + lane`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    /// The slot of `lane` in `page`.
    pub const fn new(page: u32, lane: u32) -> Self {
        Slot(page * PAGE + lane)
    }

    /// The page that the slot lies in.
    pub const fn page(self) -> u32 {
        self.0 / PAGE
    }

    /// The slot's place in its page.
    pub const fn lane(self) -> u32 {
        self.0 % PAGE
    }
}

/// Which space the keys of a row are in. 'Rotated' is kept for the Hadamard transform of quantised rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeySpace {
    /// After k-norm and the rotary embedding at the token's position: what attention reads.
    Roped,
    /// The output of `k_proj` with its bias, before k-norm and the rotary embedding: what residuals are taken of (DeltaKV, arXiv 2602.08005).
    Unroped,
}

/// The shape of a token's row in the raw tier: `[K: kv_heads x head_dim][V: kv_heads x head_dim]`, f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowShape {
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
}

impl RowShape {
    /// Elements of K, and of V.
    pub const fn width(self) -> u32 {
        self.kv_heads * self.head_dim
    }

    /// Elements of a row, K and V together.
    pub const fn cols(self) -> u32 {
        2 * self.width()
    }

    /// Bytes from one slot to the next in the raw tier.
    pub const fn raw_bytes(self) -> u64 {
        DType::F16.row_bytes(self.cols())
    }
}
