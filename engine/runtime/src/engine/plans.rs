//! Prepared recordings, one for each bucket.

use std::collections::HashMap;
use std::sync::Arc;

use longwave_contract::{Backend, PlanId, Recording, Ticket};

use super::EngineOptions;
use super::tables::Tables;
use crate::error::Error;

/// Plans that are kept prepared beside those of layers; the least recently used one makes room.
const KEPT: usize = 24;

/// Plans of each layer that are kept: one for each power of two of a prompt's length, of a batch of blocks, and of what is restored.
const OF_LAYER: usize = 20;

/// What a plan does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A step through all layers.
    Step(Bucket),
    /// The embeddings of a chunk.
    Embed(Bucket),
    /// One layer over a chunk of a prompt, and then up to so many blocks of it; 0 for none.
    Layer(u32, Bucket, u32),
    /// All tokens of a sequence of so many, restored for one layer.
    Restore(u32, u32),
    /// So many blocks of one layer.
    Encode(u32, u32),
    /// The logits after a chunk.
    Logits(Bucket),
}

/// The capacities of a recording. Each is a power of two or the engine's limit, so that few recordings serve all steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bucket {
    /// Rows.
    pub rows: u32,
    /// Tokens that any row sees.
    pub longest: u32,
    /// Rows whose logits are given; 0 records none.
    pub logits: u32,
    /// Tokens that a row of a following layer reads; 0 where nothing is chosen.
    pub chosen: u32,
    /// Whether tokens are chosen by the logits.
    pub samples: Samples,
}

/// Whether a recording chooses tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Samples {
    /// It ends with the logits, or before them.
    Nothing,
    /// The most likely ones.
    Greedy,
    /// Some are drawn.
    Drawn,
}

impl Bucket {
    /// The smallest bucket that takes what the tables hold, where no row of a following layer reads more than `most` tokens. What is read of a full
    /// budget is a bucket of its own: all of its rows are restored, also those beyond the last.
    pub fn of(tables: &Tables, options: &EngineOptions, most: u32) -> Bucket {
        Bucket {
            rows: capacity(tables.row_count(), options.chunk),
            longest: Bucket::tokens(tables.longest(), options),
            logits: match tables.selected_count() {
                0 => 0,
                wanted => capacity(wanted, options.sequences),
            },
            chosen: match tables.longest_chosen() {
                0 => 0,
                longest => Bucket::tokens(longest, options).min(most.max(longest)),
            },
            samples: tables.samples(),
        }
    }

    /// The bucket of a prompt's chunks, of which the last ends at `length` tokens.
    pub fn of_prompt(chunk: u32, length: u32, options: &EngineOptions) -> Bucket {
        Bucket {
            rows: capacity(chunk, options.chunk),
            longest: Bucket::tokens(length, options),
            logits: 1,
            chosen: 0,
            samples: Samples::Nothing,
        }
    }

    /// Room for so many tokens.
    pub fn tokens(longest: u32, options: &EngineOptions) -> u32 {
        capacity(longest.max(128), options.context)
    }
}

/// The next power of two, up to a limit.
fn capacity(value: u32, limit: u32) -> u32 {
    value.next_power_of_two().min(limit)
}

/// Plans by what they do.
pub(super) struct Plans {
    backend: Arc<dyn Backend>,
    plans: HashMap<Key, (PlanId, u64)>,
    kept: usize,
    clock: u64,
}

impl Plans {
    pub fn new(backend: Arc<dyn Backend>, layers: u32) -> Self {
        Plans {
            backend,
            plans: HashMap::new(),
            kept: KEPT + OF_LAYER * layers as usize,
            clock: 0,
        }
    }

    pub fn contains(&self, key: Key) -> bool {
        self.plans.contains_key(&key)
    }

    pub fn insert(&mut self, key: Key, recording: &Recording) -> Result<(), Error> {
        if self.plans.len() >= self.kept {
            let oldest = self
                .plans
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(key, (plan, _))| (*key, *plan));
            if let Some((key, plan)) = oldest {
                self.backend.release(plan);
                self.plans.remove(&key);
            }
        }
        let plan = self.backend.prepare(recording)?;
        self.plans.insert(key, (plan, self.clock));
        Ok(())
    }

    /// Runs the plan of a key that [`Plans::contains`].
    pub fn run(&mut self, key: Key) -> Result<Ticket, Error> {
        self.clock += 1;
        let Some((plan, used)) = self.plans.get_mut(&key) else {
            return Err(Error::Parameter(format!(
                "no plan was prepared for {key:?}"
            )));
        };
        *used = self.clock;
        Ok(self.backend.run(*plan)?)
    }
}

impl Drop for Plans {
    fn drop(&mut self) {
        for (plan, _) in self.plans.values() {
            self.backend.release(*plan);
        }
    }
}
