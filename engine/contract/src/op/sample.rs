use bytemuck::{Pod, Zeroable};

use super::Operand;
use crate::check::{Check, CheckError};
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::tolerance::Tolerance;

/// What [`Sample`] gives where no logit is a number.
pub const NO_CHOICE: u32 = u32::MAX;

/// Magnitude beyond which logits count as this: 2^100, so that no difference and no product with a penalty leaves the range of f32.
pub const LARGEST_LOGIT: f32 = f32::from_bits((127 + 100) << 23);

/// The coefficients of `2^-f = 1 + f (c0 + f (c1 + ...))` for `f` in `[0, 1)`, to 2e-7. A kernel repeats them.
pub const POWER: [f32; 6] = [
    -std::f32::consts::LN_2,
    2.402_260_9e-1,
    -5.549_923e-2,
    9.597_035e-3,
    -1.291_636_8e-3,
    1.149_199_5e-4,
];

/// How one token is chosen, as it lies in the samplings table: twelve 32-bit words, all of which [`SampleDesc::new`] makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct SampleDesc {
    /// The random number in `[0, 1)`, in units of 2^-32.
    pub draw: u32,
    /// How many of the most likely tokens stay; 0 keeps all.
    pub top_k: u32,
    /// The share of probability that the most likely tokens which stay hold, in units of 2^-32; all ones keep all.
    pub top_p: u32,
    /// The weight, in units of 2^-31, that a token needs at least, where the most likely one has 2^31.
    pub min_p: u32,
    /// By what differences of logits are multiplied to give powers of two: `log2(e) / temperature`. 0 takes the most likely token.
    pub rate: f32,
    /// The first of the tokens that are penalised, in the list of recent tokens.
    pub recent_first: u32,
    /// How many there are.
    pub recent: u32,
    /// Multiplies their logits where those are negative.
    pub penalty: f32,
    /// Multiplies their logits where those are positive: the inverse of the penalty.
    pub relief: f32,
    /// Zero.
    pub reserved: [u32; 3],
}

impl SampleDesc {
    /// Words of a descriptor: the columns of a samplings tensor.
    pub const WORDS: u32 = 12;

    /// The rate at a temperature of 1.
    pub const UNIT_RATE: f32 = std::f32::consts::LOG2_E;

    /// A temperature of 0 is greedy, and those below 2^-60 count as that; a `top_k` of 0, a `top_p` of 1 and a `min_p` of 0 filter nothing.
    /// `draw` is in units of 2^-32.
    pub fn new(temperature: f32, top_k: u32, top_p: f32, min_p: f32, draw: u32) -> Self {
        let rate = match temperature {
            0.0 => 0.0,
            _ => Self::UNIT_RATE / temperature.max(1.0 / (1u64 << 60) as f32),
        };
        SampleDesc {
            draw,
            top_k,
            // Of f32 below 1, this is exact from 2^-8 on and never all ones.
            top_p: match top_p < 1.0 {
                true => (f64::from(top_p) * (1u64 << 32) as f64) as u32,
                false => u32::MAX,
            },
            min_p: (f64::from(min_p.min(1.0)) * (1u64 << 31) as f64).ceil() as u32,
            rate,
            penalty: 1.0,
            relief: 1.0,
            ..SampleDesc::default()
        }
    }

    /// The most likely token.
    pub fn greedy() -> Self {
        SampleDesc::new(0.0, 0, 1.0, 0.0, 0)
    }

    /// Penalises `recent` tokens from number `first` of the list on.
    #[must_use]
    pub fn penalised(self, penalty: f32, first: u32, recent: u32) -> Self {
        SampleDesc {
            recent_first: first,
            recent,
            penalty,
            relief: 1.0 / penalty,
            ..self
        }
    }
}

/// `out[i]` = the token that is chosen by the logits of row `i`, or [`NO_CHOICE`] where none of them is a number.
///
/// Everything but the logits is in integers, and what is in f32 is rounded alike everywhere, so that backends choose the same token of the same
/// logits, however they add up. For each row, with `w(rate, l) = 2^(31 - (max - l) rate)` cut to an integer:
///
/// 1. Logits that are NaN are left out; subnormal ones are 0, and those beyond 2^100 ([`LARGEST_LOGIT`]) are that. Those of recent tokens are
///    multiplied by `relief` where they are positive and else by `penalty`, once, however often a token is named. `max` is the largest.
/// 2. Where the rate is 0, the token with `max` is chosen, of equal ones the lowest.
/// 3. In the order of falling logits, of equal ones the lower token first, the first `top_k` stay; of these, those before which less than `top_p` of their weights
///    at a temperature of 1 lies, and the first; of these, those whose own is at least `min_p`. The weight at a temperature of 1 is
///    `w(log2(e), l)`.
/// 4. With weights `w(rate, l)`, and `draw` of the sum of those that stay: the token is chosen at which, in the order of tokens, their sum exceeds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Logits, `f32[n, vocabulary]`.
    pub logits: Tensor,
    /// How each row's token is chosen, `u32[n, 12]`.
    pub samplings: Tensor,
    /// Recent tokens of all rows, `u32[1, r]`.
    pub recent: Tensor,
    /// How many rows count, `u32[1, 1]`.
    pub count: Tensor,
    /// Whether any row draws. Where none does, rates are taken to be 0: a backend has less to do.
    pub draws: bool,
    /// Tokens, `u32[1, n]`.
    pub out: Tensor,
}

impl Sample {
    /// The op's name.
    pub const NAME: &'static str = "sample";
    /// The same logits give the same tokens.
    pub const TOLERANCE: Tolerance = Tolerance {
        absolute: 0.0,
        relative: 0.0,
    };

    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::read("logits", self.logits),
            Operand::read("samplings", self.samplings),
            Operand::read("recent", self.recent),
            Operand::read("count", self.count),
            Operand::write("out", self.out),
        ]
    }

    pub(super) fn check(&self) -> Result<(), CheckError> {
        let check = Check(Self::NAME);
        let n = self.logits.rows;
        check.shape("logits", self.logits, DType::F32, n, self.logits.cols)?;
        let fits = self.logits.cols <= 1 << 24;
        check.holds("logits", fits, "at most 2^24 tokens", self.logits.cols)?;
        let words = SampleDesc::WORDS;
        check.shape("samplings", self.samplings, DType::U32, n, words)?;
        check.shape("recent", self.recent, DType::U32, 1, self.recent.cols)?;
        check.shape("count", self.count, DType::U32, 1, 1)?;
        check.shape("out", self.out, DType::U32, 1, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_keep_all_are_no_filters() {
        let all = SampleDesc::new(1.0, 0, 1.0, 0.0, 7);
        assert_eq!((all.top_k, all.top_p, all.min_p), (0, u32::MAX, 0));
        assert_eq!((all.rate, all.draw), (SampleDesc::UNIT_RATE, 7));
        let nearly = SampleDesc::new(1.0, 0, 1.0 - f32::EPSILON / 2.0, 1.0, 0);
        assert_eq!((nearly.top_p, nearly.min_p), (u32::MAX - 255, 1 << 31));
    }

    #[test]
    fn temperatures_become_finite_rates() {
        assert_eq!(SampleDesc::greedy().rate, 0.0);
        assert_eq!(
            SampleDesc::new(f32::MIN_POSITIVE, 0, 1.0, 0.0, 0).rate,
            SampleDesc::UNIT_RATE * (1u64 << 60) as f32
        );
        assert!(SampleDesc::new(100.0, 0, 1.0, 0.0, 0).rate > 0.0);
    }
}
