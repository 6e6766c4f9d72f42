//! Repeatable randomness.

/// SplitMix64 (Steele, Lea, Flood 2014): small, quick, and the same on every machine.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// Numbers that a seed decides.
    pub fn new(seed: u64) -> Self {
        SplitMix64 { state: seed }
    }

    /// Numbers that a seed and a few more numbers decide together: one stream for each purpose.
    pub fn of(seed: u64, purpose: &[u64]) -> Self {
        let mut random = SplitMix64::new(seed);
        for number in purpose {
            random.state = random.number() ^ number;
        }
        random
    }

    /// The next 64 bits.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `end`; 0 where `end` is.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.number()) * end as u128) >> 64) as usize
    }

    /// One of some things, of which there must be one at least.
    pub fn pick<'a, T: ?Sized>(&mut self, things: &[&'a T]) -> &'a T {
        things[self.below(things.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_differ_and_stay_in_range() {
        let stream = |seed, purpose: &[u64]| {
            let mut random = SplitMix64::of(seed, purpose);
            (0..100).map(|_| random.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(stream(1, &[2, 3]), stream(1, &[2, 3]));
        assert_ne!(stream(1, &[2, 3]), stream(1, &[3, 2]));
        assert_ne!(stream(1, &[2]), stream(2, &[2]));
        let all = stream(0, &[]);
        assert!((0..10).all(|digit| all.contains(&digit)), "{all:?}");
        assert!(all.iter().all(|&digit| digit < 10), "{all:?}");
    }
}
