//! Prompts of policies that compress: one unit of a layer and a chunk in each step.

use super::Scheduler;
use super::job::Given;
use super::request::{Event, RequestId};
use crate::engine::{Intake, Progress, Wants};
use crate::error::Error;

impl Scheduler {
    /// Takes the next unit of a prompt in, where layers compress; a prompt of one chunk may go between two layers of a longer one.
    pub(super) fn take_in(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        let between = self
            .intake
            .as_ref()
            .is_none_or(|(_, intake)| intake.is_between_layers());
        let chunk = self.engine.options().chunk;
        let next = self.running.iter().position(|job| {
            let left = self.left(job);
            let begun = job.sequence.and_then(|id| self.engine.sequence(id).ok());
            let decodes = left == 1 && begun.is_some_and(|held| !held.is_empty());
            let fits = self.intake.is_none() || left <= chunk;
            job.generate().is_some() && left > 0 && !decodes && fits && !self.is_taken_in(job.id)
        });
        let (id, intake) = match (next, between, self.intake.take()) {
            (Some(index), true, long) => {
                let Some(sequence) = self.running[index].sequence else {
                    return Ok(());
                };
                let from = self.engine.sequence(sequence)?.tokens.len();
                let tokens = self.running[index].tokens[from..].to_vec();
                let id = self.running[index].id;
                let begun =
                    self.tolerate_cache(events, |all| all.engine.begin_intake(sequence, &tokens));
                match (begun?, long) {
                    (Some(intake), None) => (id, intake),
                    (Some(intake), Some(long)) => {
                        // One chunk takes all layers at once.
                        self.intake = Some(long);
                        return self.advance(id, intake, events);
                    }
                    (None, long) => {
                        self.intake = self.intake.take().or(long);
                        return Ok(());
                    }
                }
            }
            (_, _, Some(long)) => long,
            (_, _, None) => return Ok(()),
        };
        self.advance(id, intake, events)
    }

    fn advance(
        &mut self,
        id: RequestId,
        intake: Intake,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let Some(index) = self.running.iter().position(|job| job.id == id) else {
            self.engine.drop_intake(intake);
            return Ok(());
        };
        let job = &mut self.running[index];
        let last = job.tokens.len() - 1;
        let (_, wants) = job.feed(last, 1);
        let nothing = matches!(wants, Wants::Nothing);
        match self.engine.advance_intake(intake, wants)? {
            Progress::Begun(intake) => self.intake = Some((id, intake)),
            Progress::Ended(outcome) => {
                let given = match nothing {
                    true => Some(Given::Token(None)),
                    false => {
                        let logits = outcome.logits.into_iter().next().map(Given::Logits);
                        logits.or(outcome.tokens.into_iter().next().map(Given::Token))
                    }
                };
                if let Some(given) = given
                    && let Some(how) = self.accept(index, given, events)
                {
                    let job = self.running.remove(index);
                    self.finish(job, how, events);
                }
            }
        }
        Ok(())
    }

    /// Does what the cache may have no room for: then somebody is put back.
    fn tolerate_cache<T>(
        &mut self,
        events: &mut Vec<Event>,
        act: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match act(self) {
            Ok(done) => Ok(Some(done)),
            Err(Error::CacheFull { .. }) => {
                if !self.sessions.forget_oldest(&mut self.engine) {
                    self.put_back(events);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
