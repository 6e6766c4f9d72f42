//! What is under way, and when it has ended.

use std::collections::VecDeque;

use longwave_contract::BackendError;

use crate::driver::{Event, Gpu};
use crate::fault::bad_handle;

/// Runs whose ends are told apart.
const HELD: usize = 64;

/// Runs in the order in which they were asked for. The stream keeps that order, so a later run's end is also an earlier one's.
#[derive(Debug, Default)]
pub(crate) struct Submissions {
    newest: u64,
    /// The last that is known to have ended.
    ended: u64,
    under_way: VecDeque<(u64, Event)>,
    spare: Vec<Event>,
}

impl Submissions {
    /// Numbers the run that was asked for last.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn add(&mut self, gpu: &Gpu) -> Result<u64, BackendError> {
        let oldest = match self.under_way.len() {
            HELD.. => self.under_way.pop_front().map(|(_, event)| event),
            _ => None,
        };
        let event = match oldest.or_else(|| self.spare.pop()) {
            Some(event) => event,
            None => gpu.event(false)?,
        };
        gpu.record(&event, false)?;
        self.newest += 1;
        self.under_way.push_back((self.newest, event));
        Ok(self.newest)
    }

    /// Waits for a run.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] for a run that never was, and device errors, also of what ran before.
    pub(crate) fn wait(&mut self, gpu: &Gpu, serial: u64) -> Result<(), BackendError> {
        if serial > self.newest {
            return Err(bad_handle(format!("there has been no run {serial}")));
        }
        let place = self.under_way.iter().position(|(held, _)| *held >= serial);
        let Some(place) = place.filter(|_| serial > self.ended) else {
            return Ok(());
        };
        gpu.wait(&self.under_way[place].1)?;
        self.ended = self.under_way[place].0;
        let ended = self.under_way.drain(..=place).map(|(_, event)| event);
        self.spare.extend(ended);
        Ok(())
    }
}
