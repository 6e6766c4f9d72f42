//! How much of prompts a step may take in beside requests that decode, in tokens of a prompt's beginning: later ones count for more of them.

use std::time::Duration;

/// Halves or doubles the limit by how long steps take, in powers of two, since recordings are made for those.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    most: u32,
    limit: u32,
    stall: Duration,
    /// Steps until a limit is tried again that may turn out too high.
    patience: u32,
}

/// Fewer rows than this take as long.
const LEAST: u32 = 16;
/// Steps after which a limit that was too high is tried again.
const PATIENCE: u32 = 64;

impl Pace {
    /// At most room for `most` rows, as long as a step takes no longer than `stall_ms` milliseconds.
    pub fn new(most: u32, stall_ms: u32) -> Self {
        Pace {
            most: most.max(1),
            limit: most.max(1),
            stall: Duration::from_millis(u64::from(stall_ms)),
            patience: 0,
        }
    }

    /// Room for prompts in a step in which so many requests decode.
    pub fn room(&self, decoding: usize) -> usize {
        match decoding {
            0 => self.most as usize,
            // Together a power of two.
            _ => (self.limit as usize).saturating_sub(decoding).max(2),
        }
    }

    /// A step that took in so much of prompts took so long, while so many requests decoded.
    pub fn took(&mut self, time: Duration, taken: f64, decoding: usize) {
        if decoding == 0 || taken == 0.0 {
            return;
        }
        self.patience = self.patience.saturating_sub(1);
        // Part of a step takes as long whatever is in it: twice as much may take much less than twice as long, which is worth a try now and then.
        let quick = match self.patience {
            0 => self.stall * 3 / 4,
            _ => self.stall * 11 / 20,
        };
        if time > self.stall {
            let fewer = (self.limit / 2).max(LEAST.min(self.most));
            self.limit = 1 << fewer.ilog2();
            self.patience = PATIENCE;
        } else if time < quick && 2.0 * taken >= f64::from(self.limit) {
            self.limit = self.limit.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_take_too_long_take_in_less() {
        let mut pace = Pace::new(1000, 100);
        assert_eq!((pace.room(0), pace.room(4)), (1000, 996));
        let slow = Duration::from_millis(150);
        pace.took(slow, 900.0, 4);
        assert_eq!((pace.room(0), pace.room(4)), (1000, 252));
        (0..20).for_each(|_| pace.took(slow, 200.0, 4));
        assert_eq!(pace.room(4), 12);
        let quick = Duration::from_millis(10);
        pace.took(quick, 2.0, 4);
        assert_eq!(pace.room(4), 12);
        (0..20).for_each(|_| pace.took(quick, 1000.0, 4));
        assert_eq!(pace.room(4), 996);
        // What takes as long whatever is in a step: more is tried, but not at once again.
        let middling = Duration::from_millis(70);
        pace.took(slow, 1000.0, 4);
        assert_eq!(pace.room(4), 252);
        (1..PATIENCE).for_each(|_| pace.took(middling, 250.0, 4));
        assert_eq!(pace.room(4), 252);
        pace.took(middling, 250.0, 4);
        assert_eq!(pace.room(4), 508);
        // Nobody waited.
        pace.took(slow, 900.0, 0);
        assert_eq!(pace.room(4), 508);
    }
}
