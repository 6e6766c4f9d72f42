//! Views: which rows a query reads.

use bytemuck::{Pod, Zeroable};

/// A kind of storage for the rows of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Tier {
    /// Exact rows, f16.
    Raw = 0,
    /// Rotated 8- or 4-bit rows.
    Quant = 1,
    /// Compressed residual blocks with the ordinals of their references.
    Latent = 2,
    /// Rows that residuals point to.
    Reference = 3,
    /// Restored rows, resident over steps; the same layout as raw rows.
    Scratch = 4,
}

impl Tier {
    /// The tier of an entry's upper three bits.
    pub const fn from_bits(bits: u32) -> Option<Tier> {
        match bits {
            0 => Some(Tier::Raw),
            1 => Some(Tier::Quant),
            2 => Some(Tier::Latent),
            3 => Some(Tier::Reference),
            4 => Some(Tier::Scratch),
            _ => None,
        }
    }
}

/// One entry of a view: a tier in the upper 3 bits, and in the lower 29 a page (where the view's entries are runs) or a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Entry(pub u32);

impl Entry {
    /// Bits of the index.
    pub const INDEX_BITS: u32 = 29;

    /// An entry; `None` when the index needs more than 29 bits.
    pub const fn new(tier: Tier, index: u32) -> Option<Entry> {
        if index >> Self::INDEX_BITS != 0 {
            return None;
        }
        Some(Entry((tier as u32) << Self::INDEX_BITS | index))
    }

    /// The tier that the entry names, where its bits name one.
    pub const fn tier(self) -> Option<Tier> {
        Tier::from_bits(self.0 >> Self::INDEX_BITS)
    }

    /// The page or slot within the tier.
    pub const fn index(self) -> u32 {
        self.0 & ((1 << Self::INDEX_BITS) - 1)
    }
}

/// One view, as it lies in the views buffer: four `u32` words.
///
/// The entries name `length` tokens in position order, the last of them at position `last`. A row at position `p` sees the first
/// `length - (last - p)` of them: all that is older than its chunk, and its chunk up to itself. Thus one view serves every row of a
/// sequence's chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ViewDesc {
    /// Index of the first entry in the entries buffer.
    pub first: u32,
    /// Tokens that the view names.
    pub length: u32,
    /// The position of the last token.
    pub last: u32,
    /// Tokens that an entry names: [`super::PAGE`] where entries are pages, 1 where they are slots.
    pub run: u32,
}

impl ViewDesc {
    /// How many tokens a row at `position` sees.
    pub const fn visible(&self, position: u32) -> u32 {
        self.length
            .saturating_sub(self.last.saturating_sub(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_hold_a_tier_and_an_index() {
        let entry = Entry::new(Tier::Scratch, 12345).expect("fits in 29 bits");
        assert_eq!((entry.tier(), entry.index()), (Some(Tier::Scratch), 12345));
        assert_eq!(Entry::new(Tier::Raw, 1 << 29), None);
        assert_eq!(Entry(7 << 29).tier(), None);
    }

    #[test]
    fn rows_see_their_past_and_themselves() {
        // 100 selected old tokens, then a chunk at positions 500..=509.
        let view = ViewDesc {
            first: 0,
            length: 110,
            last: 509,
            run: 1,
        };
        assert_eq!(view.visible(500), 101);
        assert_eq!(view.visible(509), 110);
    }
}
