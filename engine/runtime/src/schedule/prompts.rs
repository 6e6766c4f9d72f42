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
        // What is half-way stays where it is known until it goes on: making room may put its request back.
        if let (Some(index), true) = (next, between) {
            let Some(sequence) = self.running[index].sequence else {
                return Ok(());
            };
            let from = self.engine.sequence(sequence)?.tokens.len();
            let tokens = self.running[index].tokens[from..].to_vec();
            let id = self.running[index].id;
            let begin = |all: &mut Self| all.engine.begin_intake(sequence, &tokens);
            let Some(intake) = self.tolerate_cache(events, begin)? else {
                return Ok(());
            };
            // Beside a longer one it is one chunk, which takes all layers at once.
            return self.advance(id, intake, events);
        }
        let Some((id, intake)) = self.intake.take() else {
            return Ok(());
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
        let made = self.engine.advance_intake(intake, wants);
        let Some(progress) = self.tolerate(events, |_| made)? else {
            return Ok(());
        };
        match progress {
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
