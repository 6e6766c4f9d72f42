//! The backend itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use longwave_contract::{
    Backend, BackendError, BufferDesc, BufferId, Caps, PlanId, Recording, Ticket,
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{NAME, bad_handle};
use crate::host;
use crate::memory::Memory;
use crate::plan::Plan;
use crate::vigil;

/// Runs recordings on the host's processor. A run has ended when [`Backend::run`] returns.
pub struct CpuBackend {
    caps: Caps,
    /// Threads of its own; without them, rayon's global pool is used.
    pool: Option<ThreadPool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    memory: Memory,
    plans: HashMap<PlanId, Plan>,
    next_plan: u32,
    runs: u64,
}

impl CpuBackend {
    /// A backend on rayon's global threads, in most programs one for each core.
    pub fn new() -> Self {
        CpuBackend {
            caps: host::caps(rayon::current_num_threads()),
            pool: None,
            state: Mutex::default(),
        }
    }

    /// A backend with `threads` threads of its own; 0 is one for each core.
    ///
    /// # Errors
    /// [`BackendError::Internal`] when the system gives no threads.
    pub fn with_threads(threads: usize) -> Result<Self, BackendError> {
        let builder = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("longwave-cpu-{index}"));
        let pool = builder.build().map_err(|error| BackendError::Internal {
            backend: NAME,
            why: error.to_string(),
        })?;
        Ok(CpuBackend {
            caps: host::caps(pool.current_num_threads()),
            pool: Some(pool),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a plan by one of its methods.
    fn with_plan<T: Send>(
        &self,
        plan: PlanId,
        method: impl FnOnce(&Plan, &mut Memory) -> Result<T, BackendError> + Send,
    ) -> Result<(Ticket, T), BackendError> {
        let mut state = self.state();
        let State {
            memory,
            plans,
            runs,
            ..
        } = &mut *state;
        let plan = plans
            .get(&plan)
            .ok_or_else(|| bad_handle(format_args!("there is no plan {}", plan.0)))?;
        *runs += 1;
        let ticket = Ticket(*runs);
        // The whole plan runs on a thread of the pool, so that its ops start there without a hand-over each.
        let done = match &self.pool {
            Some(pool) => pool.install(|| vigil::keep(|| method(plan, memory))),
            None => vigil::keep(|| method(plan, memory)),
        }?;
        Ok((ticket, done))
    }
}

impl Default for CpuBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for CpuBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn allocated(&self) -> u64 {
        self.state().memory.allocated()
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId, BackendError> {
        self.state().memory.alloc(desc)
    }

    fn free(&self, buffer: BufferId) {
        self.state().memory.free(buffer);
    }

    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.state().memory.write(buffer, offset, bytes)
    }

    fn read(&self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.state().memory.read(buffer, offset, bytes)
    }

    fn copy(
        &self,
        from: (BufferId, u64),
        to: (BufferId, u64),
        bytes: u64,
    ) -> Result<(), BackendError> {
        self.state().memory.copy(from, to, bytes)
    }

    fn prepare(&self, recording: &Recording) -> Result<PlanId, BackendError> {
        let plan = Plan::new(recording);
        let mut state = self.state();
        let id = PlanId(state.next_plan);
        state.next_plan = state
            .next_plan
            .checked_add(1)
            .ok_or_else(|| bad_handle("every plan number has been used"))?;
        state.plans.insert(id, plan);
        Ok(id)
    }

    fn kernels(&self, plan: PlanId) -> Vec<String> {
        let state = self.state();
        state
            .plans
            .get(&plan)
            .map(Plan::kernels)
            .unwrap_or_default()
    }

    fn release(&self, plan: PlanId) {
        self.state().plans.remove(&plan);
    }

    fn run(&self, plan: PlanId) -> Result<Ticket, BackendError> {
        self.with_plan(plan, Plan::run).map(|(ticket, ())| ticket)
    }

    fn profile(&self, plan: PlanId) -> Result<Vec<u64>, BackendError> {
        self.with_plan(plan, Plan::profile).map(|(_, times)| times)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), BackendError> {
        let runs = self.state().runs;
        if ticket.0 > runs {
            return Err(bad_handle(format_args!(
                "there has been no run {}, only {runs}",
                ticket.0
            )));
        }
        Ok(())
    }
}
