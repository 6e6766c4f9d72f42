//! Latent blocks: how compressed tokens of a layer lie in memory.
//!
//! A block holds [`BLOCK`] consecutive tokens of one sequence and one layer in one row of a `u32` tensor. It is written once and complete
//! given its prefix: references are named by their ordinal within the sequence (sinks first, then those of each block in turn), never by
//! where they lie, so a block can be shared, copied between backends and saved as it is.
//!
//! In a block, in this order: **references**, the exact rows of every `stride`-th token from the first on; **ordinals**, for each other token
//! the references whose mean is its base; **scales** and **codes** of its latents; **escapes**, the exact rows of the tokens that the code
//! serves worst. Tokens that are references have no ordinals, scales or codes: they are read from their exact rows.

use bytemuck::{Pod, Zeroable};

/// Tokens of a latent block.
pub const BLOCK: u32 = 128;

/// Elements of an exact 8-bit row that share a scale.
pub const EXACT_GROUP: u32 = 32;

/// Latents over whose mean square [`ScaleRule::Gain`] takes its root.
pub const GAIN_LATENTS: u32 = 64;

/// How the scales of a token's codes come about. With `value` a latent, `step` and `zero` from its [`ComponentDesc`], and `s` and `m` the
/// scale and minimum of its group, a code stands for `s * step * (code - zero) + m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ScaleRule {
    /// There are no scales, and codes are the bits of f16 numbers.
    Plain = 0,
    /// One scale for a token: the root mean square of its first [`GAIN_LATENTS`] latents. `m` is 0.
    Gain = 1,
    /// A scale for a group: its largest magnitude over `zero * step` of the group's first latent. `m` is 0.
    Symmetric = 2,
    /// A scale and a minimum for a group, as DeltaKV's 4-bit latents: `m` is the least value and `s` the range over 15, both rounded to f16
    /// before use; codes are rounded half to even from `(value - m) / (s + 1e-6)`.
    MinMax = 3,
}

/// Where the references of a layer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReferenceShape {
    /// Tokens from one reference to the next, from each block's first token on.
    pub stride: u32,
    /// References whose mean is a token's base.
    pub neighbours: u32,
}

/// The shape of a layer's latent blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LatentShape {
    /// Elements of a row `x = [K | V]`.
    pub cols: u32,
    /// Latents of a token.
    pub rank: u32,
    /// Bits of a token's codes together.
    pub code_bits: u32,
    /// Latents that share a scale, where `rule` has groups.
    pub group: u32,
    /// How scales come about.
    pub rule: ScaleRule,
    /// References; without them, a token's base is the layer's mean.
    pub references: Option<ReferenceShape>,
    /// Whether exact rows are f16 rather than 8 bit with a scale for each [`EXACT_GROUP`] elements around the layer's mean.
    pub exact_f16: bool,
    /// Tokens of a block that are kept as exact rows besides.
    pub escapes: u32,
}

impl LatentShape {
    /// References of a block.
    pub const fn references_per_block(&self) -> u32 {
        match self.references {
            Some(references) => BLOCK.div_ceil(references.stride),
            None => 0,
        }
    }

    /// Tokens of a block that have codes.
    pub const fn coded(&self) -> u32 {
        BLOCK - self.references_per_block()
    }

    /// The place among the coded tokens of a token that is no reference.
    pub const fn coded_index(&self, lane: u32) -> u32 {
        match self.references {
            Some(references) => lane - (lane / references.stride + 1),
            None => lane,
        }
    }

    /// Whether a token of a block is a reference.
    pub const fn is_reference(&self, lane: u32) -> bool {
        match self.references {
            Some(references) => lane.is_multiple_of(references.stride),
            None => false,
        }
    }

    /// Words of an exact row: its elements, then the scales of 8-bit ones, two to a word.
    pub const fn exact_words(&self) -> u32 {
        if self.exact_f16 {
            self.cols / 2
        } else {
            self.cols / 4 + self.cols.div_ceil(2 * EXACT_GROUP)
        }
    }

    /// Words of a token's ordinals, two to a word.
    pub const fn ordinal_words(&self) -> u32 {
        match self.references {
            Some(references) => references.neighbours.div_ceil(2),
            None => 0,
        }
    }

    /// Scales and minima of a token. A token's begin at an even one, except for gains.
    pub const fn scales(&self) -> u32 {
        match self.rule {
            ScaleRule::Plain => 0,
            ScaleRule::Gain => 1,
            ScaleRule::Symmetric => self.rank.div_ceil(self.group).next_multiple_of(2),
            ScaleRule::MinMax => 2 * self.rank.div_ceil(self.group),
        }
    }

    /// Words of a token's codes.
    pub const fn code_words(&self) -> u32 {
        self.code_bits.div_ceil(32)
    }

    /// The first word of the ordinals.
    pub const fn ordinals_at(&self) -> u32 {
        self.references_per_block() * self.exact_words()
    }

    /// The first word of the scales.
    pub const fn scales_at(&self) -> u32 {
        self.ordinals_at() + self.coded() * self.ordinal_words()
    }

    /// The first word of the codes.
    pub const fn codes_at(&self) -> u32 {
        self.scales_at() + (self.coded() * self.scales()).div_ceil(2)
    }

    /// The first word of the escapes: for each, its lane or [`u32::MAX`], and then for each its exact row.
    pub const fn escapes_at(&self) -> u32 {
        self.codes_at() + self.coded() * self.code_words()
    }

    /// Words of a block: the columns of a latent tensor.
    pub const fn words(&self) -> u32 {
        (self.escapes_at() + self.escapes * (1 + self.exact_words())).next_multiple_of(4)
    }

    /// Bytes of one token, a block's share.
    pub const fn bytes_per_token(&self) -> f64 {
        self.words() as f64 * 4.0 / BLOCK as f64
    }

    /// The most tokens of a sequence with `sinks` sinks whose references 16-bit ordinals can name.
    pub const fn token_limit(&self, sinks: u32) -> u32 {
        match self.references_per_block() {
            0 => u32::MAX,
            each => {
                sinks.saturating_add((65536u32.saturating_sub(sinks) / each).saturating_mul(BLOCK))
            }
        }
    }
}

/// How one latent is coded, as it lies in a components tensor: four words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct ComponentDesc {
    /// The first bit of its code among the token's.
    pub offset: u32,
    /// Bits of its code: 0 (the latent is 0) to 8, or 16 under [`ScaleRule::Plain`].
    pub bits: u32,
    /// The distance of two codes, in units of the scale.
    pub step: f32,
    /// The code that stands for 0; half-way between two codes where there is none.
    pub zero: f32,
}

impl ComponentDesc {
    /// Words of a descriptor: the columns of a components tensor.
    pub const WORDS: u32 = 4;
}

/// Where the tokens of one sequence lie in a layer that compresses, as it lies in a stores buffer: eight `u32` words.
///
/// Of the positions below `length`, the first `sinks` lie in raw pages of their own, the next `compressed` in blocks, and the rest in raw
/// pages again, each part from a page's first lane on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StoreDesc {
    /// Tokens at the beginning that stay raw.
    pub sinks: u32,
    /// Tokens in blocks; a multiple of [`BLOCK`].
    pub compressed: u32,
    /// Tokens in all.
    pub length: u32,
    /// Tokens that are restored where a list names them.
    pub chosen: u32,
    /// Index of the first raw page in the entries buffer: those of the sinks, then those of the tail.
    pub pages: u32,
    /// Index of the first block in the entries buffer.
    pub blocks: u32,
    /// The row of a map of resident tokens that is the sequence's.
    pub lane: u32,
    /// What the sequence's history is known by: another number whenever it was rewritten, never zero, and of no other sequence.
    pub generation: u32,
}

impl StoreDesc {
    /// Words of a descriptor: the columns of a stores tensor.
    pub const WORDS: u32 = 8;
}

/// One block that is to be compressed, as it lies in a blocks buffer: eight `u32` words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockDesc {
    /// The row of its first token among the staged rows; those of the sinks are the first.
    pub source: u32,
    /// Blocks of the sequence before it.
    pub index: u32,
    /// Sinks of the sequence.
    pub sinks: u32,
    /// Index of the sequence's first block in the entries buffer.
    pub blocks: u32,
    /// Zero.
    pub reserved: [u32; 4],
}

impl BlockDesc {
    /// Words of a descriptor: the columns of a blocks tensor.
    pub const WORDS: u32 = 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: LatentShape = LatentShape {
        cols: 384,
        rank: 384,
        code_bits: 768,
        group: 384,
        rule: ScaleRule::Gain,
        references: Some(ReferenceShape {
            stride: 32,
            neighbours: 4,
        }),
        exact_f16: false,
        escapes: 2,
    };

    #[test]
    fn a_block_holds_what_it_says() {
        assert_eq!(SHAPE.exact_words(), 96 + 6);
        assert_eq!((SHAPE.references_per_block(), SHAPE.coded()), (4, 124));
        assert_eq!(SHAPE.ordinals_at(), 4 * 102);
        assert_eq!(SHAPE.scales_at(), 408 + 124 * 2);
        assert_eq!(SHAPE.codes_at(), 656 + 62);
        assert_eq!(SHAPE.escapes_at(), 718 + 124 * 24);
        assert_eq!(SHAPE.words(), (3694u32 + 2 * 103).next_multiple_of(4));
        let share = SHAPE.bytes_per_token() / 768.0;
        assert!((share - 0.159).abs() < 0.001, "{share}");
        let plain = LatentShape {
            references: None,
            escapes: 0,
            ..SHAPE
        };
        assert_eq!(
            (plain.scales_at(), plain.codes_at(), plain.words()),
            (0, 64, 64 + 128 * 24)
        );
    }

    #[test]
    fn coded_tokens_are_those_between_the_references() {
        let coded: Vec<u32> = (0..BLOCK)
            .filter(|&lane| !SHAPE.is_reference(lane))
            .collect();
        let places: Vec<u32> = coded.iter().map(|&lane| SHAPE.coded_index(lane)).collect();
        assert_eq!(places, (0..SHAPE.coded()).collect::<Vec<_>>());
    }

    #[test]
    fn ordinals_bound_a_sequence() {
        assert_eq!(SHAPE.token_limit(8), 8 + (65528 / 4) * 128);
        assert_eq!(
            LatentShape {
                references: None,
                ..SHAPE
            }
            .token_limit(8),
            u32::MAX
        );
    }
}
