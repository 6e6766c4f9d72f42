//! Sequences that stay between requests, by name.

use std::collections::HashMap;

use crate::engine::Engine;
use crate::kv::SequenceId;

/// Named sequences that no request works on. Where the cache has no room, the one that was used longest ago goes.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    idle: HashMap<String, (SequenceId, u64)>,
    clock: u64,
}

impl Sessions {
    /// Takes a session's sequence, for a request to go on with.
    pub fn take(&mut self, name: &str) -> Option<SequenceId> {
        self.idle.remove(name).map(|(sequence, _)| sequence)
    }

    /// Leaves a sequence to a session, in the place of what it had.
    pub fn keep(&mut self, name: String, sequence: SequenceId, engine: &mut Engine) {
        self.clock += 1;
        if let Some((old, _)) = self.idle.insert(name, (sequence, self.clock)) {
            engine.end(old);
        }
    }

    /// The sequence of a session that no request works on.
    pub fn get(&self, name: &str) -> Option<SequenceId> {
        self.idle.get(name).map(|(sequence, _)| *sequence)
    }

    /// Forgets a session; `false` where there is none that is idle.
    pub fn forget(&mut self, name: &str, engine: &mut Engine) -> bool {
        let found = self.take(name);
        found.inspect(|&sequence| engine.end(sequence)).is_some()
    }

    /// Forgets the one that was used longest ago; `false` where there is none.
    pub fn forget_oldest(&mut self, engine: &mut Engine) -> bool {
        let oldest = self.idle.iter().min_by_key(|(_, (_, used))| *used);
        match oldest.map(|(name, _)| name.clone()) {
            Some(name) => self.forget(&name, engine),
            None => false,
        }
    }
}
