//! Bytes beside every score.

use longwave_contract::kv::PAGE;

use crate::engine::Engine;
use crate::error::Error;
use crate::kv::SequenceId;

/// What a sequence holds, over what a dense cache would.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Footprint {
    /// Bytes that the sequence holds over those of the pages of a dense cache.
    pub kv_ratio: f64,
    /// The same for the history alone: everything but sinks and raw tail.
    pub history_ratio: f64,
}

impl Footprint {
    /// Measures a sequence as it stands.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn of(engine: &Engine, sequence: SequenceId) -> Result<Self, Error> {
        let token = engine.model().config().dense_bytes_per_token();
        let length = engine.sequence(sequence)?.len();
        let ratio = |bytes: u64, tokens: u32| bytes as f64 / (u64::from(tokens) * token) as f64;
        let whole_pages = length.div_ceil(PAGE).max(1) * PAGE;
        let kv_ratio = ratio(engine.kv_bytes(sequence)?, whole_pages);
        let history = engine.history(sequence)?;
        let history_ratio = match history.len() as u32 {
            0 => kv_ratio,
            tokens => ratio(engine.stored_bytes(sequence, history)?, tokens),
        };
        Ok(Footprint {
            kv_ratio,
            history_ratio,
        })
    }

    /// The mean of some footprints; that of none is zero.
    pub fn mean(all: &[Footprint]) -> Self {
        let mean = |figure: fn(&Footprint) -> f64| {
            all.iter().map(figure).sum::<f64>() / (all.len() as f64).max(1.0)
        };
        Footprint {
            kv_ratio: mean(|footprint| footprint.kv_ratio),
            history_ratio: mean(|footprint| footprint.history_ratio),
        }
    }
}
