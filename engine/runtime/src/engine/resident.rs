//! What stays restored between decode steps: scratch rows of each layer that follows, and which sequence has which.

use std::sync::Arc;

use longwave_contract::kv::PAGE;
use longwave_contract::op::RESIDENT_HEAD;
use longwave_contract::{Allocation, Backend, BackendError, BufferDesc, DType, Tensor};

use super::EngineOptions;
use super::buffers::TILE;
use super::plans::Bucket;
use super::tables::tiles;
use crate::error::Error;
use crate::kv::SequenceId;
use crate::model::{ChoiceTensors, ModelConfig, ResidentStep, Tile};
use crate::policy::{Policy, Role};

/// Words of a tile's count: a binding of its own.
const COUNT: u32 = (Tensor::ALIGN / 4) as u32;

/// Rows that stay restored. A sequence that decodes has a *lane*: as many rows of each layer that follows, and one row of each map of what
/// lies in them. The layers that follow one observer share a map.
pub(super) struct Resident {
    /// The rows of each layer that follows.
    rows: Vec<Option<Allocation>>,
    /// What lies in them, for each observer.
    maps: Vec<Allocation>,
    /// Entries of chosen tokens.
    entries: Allocation,
    /// What a step restores.
    misses: Allocation,
    /// How much of it each tile takes.
    counts: Allocation,
    slots: u32,
    cols: u32,
    lanes: Vec<Lane>,
    clock: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    sequence: Option<SequenceId>,
    used: u64,
}

/// The buffers for an engine's limits and a model.
struct Descs {
    /// For each layer that follows.
    rows: BufferDesc,
    /// For each observer.
    map: BufferDesc,
    entries: BufferDesc,
    misses: BufferDesc,
    counts: BufferDesc,
}

impl Descs {
    fn new(options: &EngineOptions, config: &ModelConfig) -> Self {
        let (slots, lanes) = (options.resident_rows, options.sequences);
        let of = |label: &str, dtype, rows, cols| BufferDesc::of(label, dtype, rows, cols);
        let rows = lanes.saturating_mul(slots);
        let words = RESIDENT_HEAD.saturating_add(slots.saturating_mul(2));
        Descs {
            rows: of("resident rows", DType::F16, rows, config.shape.cols()),
            map: of("map of resident rows", DType::U32, lanes, words),
            entries: of("entries of resident rows", DType::U32, lanes, slots),
            // A choice fits into a lane.
            misses: of("rows to restore", DType::U32, rows, 4),
            counts: of(
                "counts of rows to restore",
                DType::U32,
                rows.div_ceil(TILE),
                COUNT,
            ),
        }
    }
}

impl Resident {
    /// Bytes that are allocated at most, where every layer follows.
    pub fn bytes(options: &EngineOptions, config: &ModelConfig) -> u64 {
        if options.resident_rows == 0 {
            return 0;
        }
        let descs = Descs::new(options, config);
        u64::from(config.layers) * (descs.rows.bytes + descs.map.bytes)
            + descs.entries.bytes
            + descs.misses.bytes
            + descs.counts.bytes
    }

    /// The buffers, where the options ask for them, the policy restores what is chosen, and a choice finds room in a lane.
    ///
    /// # Errors
    /// The device fails; where it only has no room, there are none.
    pub fn new(
        backend: &Arc<dyn Backend>,
        options: &EngineOptions,
        config: &ModelConfig,
        policy: &dyn Policy,
    ) -> Result<Option<Self>, Error> {
        let slots = options.resident_rows.next_multiple_of(PAGE);
        let follows = |layer: u32| policy.role(layer) == Role::Follow;
        let coded = |layer: u32| policy.codec(layer).is_some();
        let mut following = (0..config.layers)
            .filter(|&layer| follows(layer))
            .peekable();
        let some = following.peek().is_some() && following.all(coded);
        let most = policy.budget().map(|budget| budget.tokens());
        let fits = most.is_some_and(|most| most.min(options.context) <= slots);
        if options.resident_rows == 0 || !some || !fits {
            return Ok(None);
        }
        let options = EngineOptions {
            resident_rows: slots,
            ..options.clone()
        };
        match Resident::allocate(backend, &options, config, policy) {
            Ok(resident) => Ok(Some(resident)),
            Err(Error::Backend(BackendError::OutOfMemory { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn allocate(
        backend: &Arc<dyn Backend>,
        options: &EngineOptions,
        config: &ModelConfig,
        policy: &dyn Policy,
    ) -> Result<Self, Error> {
        let descs = Descs::new(options, config);
        let make = |desc| Allocation::new(backend, desc);
        let roles = || (0..config.layers).map(|layer| policy.role(layer));
        let rows = roles().map(|role| match role {
            Role::Follow => make(&descs.rows).map(Some),
            Role::Dense | Role::Observe => Ok(None),
        });
        let observers = roles().filter(|role| *role == Role::Observe);
        Ok(Resident {
            rows: rows.collect::<Result<_, _>>()?,
            maps: observers
                .map(|_| make(&descs.map))
                .collect::<Result<_, _>>()?,
            entries: make(&descs.entries)?,
            misses: make(&descs.misses)?,
            counts: make(&descs.counts)?,
            slots: options.resident_rows,
            cols: config.shape.cols(),
            lanes: vec![Lane::default(); options.sequences as usize],
            clock: 0,
        })
    }

    /// Bytes of one sequence's rows in all layers, and of its maps.
    pub fn lane_bytes(&self) -> u64 {
        let buffers = self.rows.iter().flatten().chain(&self.maps);
        buffers.map(Allocation::bytes).sum::<u64>() / self.lanes.len().max(1) as u64
    }

    /// The lanes of a step's sequences, each once: those that they had, or else those that were used longest ago. There are as many lanes as a
    /// step takes sequences. What lies in a lane is known by its generation, which no other sequence has.
    pub fn lanes(&mut self, sequences: &[SequenceId]) -> Vec<u32> {
        self.clock += 1;
        let clock = self.clock;
        for lane in &mut self.lanes {
            if lane.sequence.is_some_and(|id| sequences.contains(&id)) {
                lane.used = clock;
            }
        }
        let find = |id: &SequenceId| {
            let known = self
                .lanes
                .iter()
                .position(|lane| lane.sequence == Some(*id));
            let oldest = || {
                let free = (0..self.lanes.len()).filter(|&at| self.lanes[at].used < clock);
                free.min_by_key(|&at| self.lanes[at].used)
            };
            let found = known.or_else(oldest).unwrap_or(0);
            if let Some(lane) = self.lanes.get_mut(found) {
                *lane = Lane {
                    sequence: Some(*id),
                    used: clock,
                };
            }
            found as u32
        };
        sequences.iter().map(find).collect()
    }

    /// The tensors of a step with this bucket.
    pub fn step(&self, bucket: Bucket, choice: &ChoiceTensors) -> (ResidentStep, Vec<Tile>) {
        let lanes = self.lanes.len() as u32;
        let words =
            |buffer: &Allocation, rows, cols| Tensor::new(buffer.id(), DType::U32, rows, cols);
        let rows = choice.picks.rows * bucket.chosen;
        let counts = words(&self.counts, rows.div_ceil(TILE), COUNT);
        let row = |buffer: &Allocation| {
            Tensor::new(buffer.id(), DType::F16, lanes * self.slots, self.cols)
        };
        let map = |buffer| words(buffer, lanes, RESIDENT_HEAD + 2 * self.slots);
        let step = ResidentStep {
            maps: self.maps.iter().map(map).collect(),
            entries: words(&self.entries, choice.chosen.rows, choice.chosen.cols),
            misses: words(&self.misses, rows, 4),
            counts,
            tile: TILE,
            rows: self
                .rows
                .iter()
                .map(|buffer| buffer.as_ref().map(row))
                .collect(),
        };
        let tiles = tiles(counts, rows);
        (step, tiles)
    }
}
