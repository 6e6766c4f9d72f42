//! Sequences that stay between requests, by name.

use std::collections::HashMap;
use std::path::Path;

use super::Scheduler;
use crate::engine::Engine;
use crate::error::Error;
use crate::kv::SequenceId;
use crate::sample::Sampler;
use crate::session::{self, SessionError, SessionState};

/// A session that no request works on.
#[derive(Debug)]
pub(super) struct Idle {
    pub sequence: SequenceId,
    /// The last request's, where one had any.
    pub sampler: Option<Sampler>,
    used: u64,
}

/// Named sequences that no request works on. Where the cache has no room, the one that was used longest ago goes.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    idle: HashMap<String, Idle>,
    clock: u64,
}

impl Sessions {
    /// Takes a session, for a request to go on with.
    pub fn take(&mut self, name: &str) -> Option<Idle> {
        self.idle.remove(name)
    }

    /// Leaves a sequence to a session, in the place of what it had.
    pub fn keep(
        &mut self,
        name: String,
        (sequence, sampler): (SequenceId, Option<Sampler>),
        engine: &mut Engine,
    ) {
        self.clock += 1;
        let idle = Idle {
            sequence,
            sampler,
            used: self.clock,
        };
        if let Some(old) = self.idle.insert(name, idle) {
            engine.end(old.sequence);
        }
    }

    /// Forgets a session; `false` where there is none that is idle.
    pub fn forget(&mut self, name: &str, engine: &mut Engine) -> bool {
        let found = self.take(name);
        found.inspect(|idle| engine.end(idle.sequence)).is_some()
    }

    /// Forgets the one that was used longest ago; `false` where there is none.
    pub fn forget_oldest(&mut self, engine: &mut Engine) -> bool {
        self.forget_oldest_but("", engine)
    }

    /// As [`Sessions::forget_oldest`], with one that stays.
    fn forget_oldest_but(&mut self, name: &str, engine: &mut Engine) -> bool {
        let others = self.idle.iter().filter(|(other, _)| *other != name);
        let oldest = others.min_by_key(|(_, idle)| idle.used);
        match oldest.map(|(name, _)| name.clone()) {
            Some(name) => self.forget(&name, engine),
            None => false,
        }
    }
}

/// What a session holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its name.
    pub name: String,
    /// Tokens whose rows are in the cache.
    pub tokens: usize,
    /// Bytes of cache that it holds.
    pub kv_bytes: u64,
}

impl Scheduler {
    /// The sessions that no request works on, by name.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let found = self.sessions.idle.iter().filter_map(|(name, idle)| {
            Some(SessionInfo {
                name: name.clone(),
                tokens: self.engine.sequence(idle.sequence).ok()?.tokens.len(),
                kv_bytes: self.engine.kv_bytes(idle.sequence).ok()?,
            })
        });
        let mut found: Vec<SessionInfo> = found.collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Whether a request works on a session or waits to.
    pub fn is_busy(&self, name: &str) -> bool {
        let mut jobs = self.running.iter().chain(&self.waiting);
        jobs.any(|job| job.session.as_deref() == Some(name))
    }

    fn idle(&self, name: &str) -> Result<&Idle, Error> {
        let found = self.sessions.idle.get(name);
        found.ok_or_else(|| Error::NoSession {
            name: name.to_owned(),
            busy: self.is_busy(name),
        })
    }

    /// Saves a session to a file; returns the file's length in bytes. The session stays.
    ///
    /// # Errors
    /// No such session is idle, and as [`session::save`].
    pub fn save_session(&self, name: &str, path: &Path) -> Result<u64, SessionError> {
        let idle = self.idle(name)?;
        let state = SessionState {
            sampler: idle.sampler.clone(),
            note: None,
        };
        session::save(path, &self.engine, idle.sequence, &state)
    }

    /// Makes a session of what a file holds, in the place of what it had; returns how many tokens those are.
    ///
    /// # Errors
    /// A request works on the session, and as [`session::load`]. What it had stays then.
    pub fn restore_session(&mut self, name: &str, path: &Path) -> Result<usize, SessionError> {
        self.check_free(name)?;
        let (sequence, state) = loop {
            match session::load(path, &mut self.engine) {
                Err(SessionError::Engine(full @ Error::CacheFull { .. })) => {
                    // Nobody goes for a file that is of no use.
                    session::verify(path, &self.engine)?;
                    if !self.sessions.forget_oldest_but(name, &mut self.engine) {
                        return Err(full.into());
                    }
                }
                loaded => break loaded?,
            }
        };
        let held = (sequence, state.sampler);
        self.sessions.keep(name.to_owned(), held, &mut self.engine);
        Ok(self.engine.sequence(sequence)?.tokens.len())
    }

    /// Makes another session of one, with everything in common; returns how many tokens those are.
    ///
    /// # Errors
    /// No such session is idle, or a request works on the other one.
    pub fn fork_session(&mut self, name: &str, other: &str) -> Result<usize, Error> {
        self.check_free(other)?;
        let idle = self.idle(name)?;
        let (sequence, sampler) = (idle.sequence, idle.sampler.clone());
        let fork = self.engine.fork(sequence)?;
        let held = (fork, sampler);
        self.sessions.keep(other.to_owned(), held, &mut self.engine);
        Ok(self.engine.sequence(fork)?.tokens.len())
    }

    /// Forgets a session.
    ///
    /// # Errors
    /// No such session is idle.
    pub fn forget_session(&mut self, name: &str) -> Result<(), Error> {
        self.idle(name)?;
        self.sessions.forget(name, &mut self.engine);
        Ok(())
    }

    fn check_free(&self, name: &str) -> Result<(), Error> {
        match self.is_busy(name) {
            false => Ok(()),
            true => Err(Error::NoSession {
                name: name.to_owned(),
                busy: true,
            }),
        }
    }
}
