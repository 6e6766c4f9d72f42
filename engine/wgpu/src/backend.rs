//! The backend: one device, its buffers and its plans.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longwave_contract::{
    Backend, BackendError, BufferDesc, BufferId, Caps, PlanId, Recording, Ticket,
};

use crate::device::{self, Gpu};
use crate::fault::{bad_handle, internal};
use crate::launch::{Force, cooperative, stored_heads};
use crate::memory::{Account, Buffers};
use crate::pipeline::Pipelines;
use crate::plan::{Plan, Scratch, Workshop};
use crate::profile::profile;
use crate::staging::{Staging, Transfer};
use crate::submission::Submissions;

/// Which device to open, and what tests change about it.
#[derive(Clone, Debug, Default)]
pub struct WgpuOptions {
    /// A device's number, or a part of its name in any case; the best GPU where it is absent.
    pub device: Option<String>,
    /// Whether a software device may be opened that was not named.
    pub allow_software: bool,
    /// Kernels that tests ask for.
    pub force: Force,
    /// A folder in which compiled kernels are kept from one start to the next, where the driver lets them be kept.
    pub kernels: Option<PathBuf>,
    /// Cuts buffers at this many bytes where the device would bind larger ones.
    pub slab_limit: Option<u64>,
    /// Allocations of device memory beyond this many bytes fail as out of memory. Staging buffers do not count.
    pub memory_limit: Option<u64>,
    /// Loses the device after this many submissions.
    pub lose_after: Option<u64>,
}

/// Runs recordings on a GPU through wgpu.
pub struct WgpuBackend {
    gpu: Gpu,
    caps: Caps,
    force: Force,
    account: Arc<Account>,
    state: Mutex<State>,
}

struct State {
    buffers: Buffers,
    plans: HashMap<u32, Plan>,
    next_plan: u32,
    pipelines: Pipelines,
    scratch: Scratch,
    staging: Staging,
    submissions: Submissions,
}

impl WgpuBackend {
    /// Opens a device.
    ///
    /// # Errors
    /// [`BackendError::NoDevice`], which lists what there is, when none fits or the driver does not open it.
    pub fn open(options: &WgpuOptions) -> Result<Self, BackendError> {
        let (gpu, mut caps) = device::open(
            options.device.as_deref(),
            options.allow_software,
            options.slab_limit,
            options.kernels.as_deref(),
        )?;
        caps.half_products = cooperative(&caps, options.force);
        caps.stored_heads = stored_heads(caps.subgroup, options.force);
        Ok(WgpuBackend {
            gpu,
            caps,
            force: options.force,
            account: Arc::new(Account::new(options.memory_limit)),
            state: Mutex::new(State {
                buffers: Buffers::default(),
                plans: HashMap::new(),
                next_plan: 0,
                pipelines: Pipelines::default(),
                scratch: Scratch::default(),
                staging: Staging::default(),
                submissions: Submissions::new(options.lose_after),
            }),
        })
    }

    /// The state. A panic while it was held leaves it usable: what was under construction is dropped.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, when nothing has failed since the last call.
    fn checked(&self) -> Result<MutexGuard<'_, State>, BackendError> {
        let state = self.state();
        self.gpu.faults.check()?;
        Ok(state)
    }

    /// Does something with a plan, which is bound first.
    fn with_plan<T>(
        &self,
        plan: PlanId,
        method: impl FnOnce(&mut Plan, &mut Staging, &mut Transfer<'_>) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let mut state = self.checked()?;
        let State {
            buffers,
            plans,
            pipelines,
            scratch,
            staging,
            submissions,
            ..
        } = &mut *state;
        let unknown = || bad_handle(format!("there is no plan {}", plan.0));
        let plan = plans.get_mut(&plan.0).ok_or_else(unknown)?;
        if !plan.is_bound(scratch) {
            submissions.flush(&self.gpu)?;
        }
        plan.bind(&mut Workshop {
            gpu: &self.gpu,
            caps: &self.caps,
            account: &self.account,
            buffers,
            pipelines,
            scratch,
        })?;
        let mut with = Transfer {
            gpu: &self.gpu,
            account: &self.account,
            submissions,
        };
        method(plan, staging, &mut with)
    }
}

/// The range of `bytes` bytes from `offset`.
fn range(offset: u64, bytes: u64) -> Result<std::ops::Range<u64>, BackendError> {
    let overflow = || bad_handle(format!("{bytes} bytes from {offset}"));
    let end = offset.checked_add(bytes).ok_or_else(overflow)?;
    Ok(offset..end)
}

impl Backend for WgpuBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn allocated(&self) -> u64 {
        self.account.bytes()
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId, BackendError> {
        let mut state = self.checked()?;
        // Commands that wait hold the buffers that they name.
        state.submissions.flush(&self.gpu)?;
        self.gpu.reclaim()?;
        let limit = self.caps.slab_limit;
        state.buffers.alloc(&self.gpu, &self.account, desc, limit)
    }

    fn free(&self, buffer: BufferId) {
        let mut state = self.state();
        for plan in state.plans.values_mut().filter(|plan| plan.names(buffer)) {
            plan.unbind();
        }
        state.buffers.free(buffer);
    }

    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), BackendError> {
        let mut state = self.checked()?;
        let State {
            buffers,
            staging,
            submissions,
            ..
        } = &mut *state;
        let range = range(offset, bytes.len() as u64)?;
        let target = buffers.get(buffer)?.pieces(range)?;
        let mut with = Transfer {
            gpu: &self.gpu,
            account: &self.account,
            submissions,
        };
        staging.write(&mut with, &target, bytes)
    }

    fn read(&self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        let mut state = self.checked()?;
        let State {
            buffers,
            staging,
            submissions,
            ..
        } = &mut *state;
        let range = range(offset, bytes.len() as u64)?;
        let source = buffers.get(buffer)?.pieces(range)?;
        let mut with = Transfer {
            gpu: &self.gpu,
            account: &self.account,
            submissions,
        };
        staging.read(&mut with, &source, bytes)
    }

    fn copy(
        &self,
        from: (BufferId, u64),
        to: (BufferId, u64),
        bytes: u64,
    ) -> Result<(), BackendError> {
        let mut state = self.checked()?;
        let State {
            buffers,
            staging,
            submissions,
            ..
        } = &mut *state;
        let (from_range, to_range) = (range(from.1, bytes)?, range(to.1, bytes)?);
        let overlap = from_range.start < to_range.end && to_range.start < from_range.end;
        if from.0 == to.0 && overlap {
            let what = format!(
                "a copy of {bytes} bytes within a buffer, from {} to {}, overlaps",
                from.1, to.1
            );
            return Err(bad_handle(what));
        }
        let source = buffers.get(from.0)?.pieces(from_range)?;
        let target = buffers.get(to.0)?.pieces(to_range)?;
        let mut with = Transfer {
            gpu: &self.gpu,
            account: &self.account,
            submissions,
        };
        staging.copy(&mut with, &source, &target)
    }

    fn prepare(&self, recording: &Recording) -> Result<PlanId, BackendError> {
        let mut state = self.checked()?;
        state.submissions.flush(&self.gpu)?;
        let State {
            buffers,
            plans,
            pipelines,
            scratch,
            next_plan,
            ..
        } = &mut *state;
        let mut workshop = Workshop {
            gpu: &self.gpu,
            caps: &self.caps,
            account: &self.account,
            buffers,
            pipelines,
            scratch,
        };
        let plan = Plan::prepare(recording, self.force, &mut workshop)?;
        let id = *next_plan;
        let exhausted = || internal("all plan numbers are used up");
        *next_plan = id.checked_add(1).ok_or_else(exhausted)?;
        plans.insert(id, plan);
        Ok(PlanId(id))
    }

    fn kernels(&self, plan: PlanId) -> Vec<String> {
        let state = self.state();
        state
            .plans
            .get(&plan.0)
            .map_or_else(Vec::new, Plan::kernels)
    }

    fn release(&self, plan: PlanId) {
        let mut state = self.state();
        state.plans.remove(&plan.0);
        if state.plans.is_empty() {
            state.scratch.clear();
        }
    }

    fn run(&self, plan: PlanId) -> Result<Ticket, BackendError> {
        let run = |plan: &mut Plan, _: &mut Staging, with: &mut Transfer<'_>| {
            plan.run(with.gpu, with.submissions)
        };
        self.with_plan(plan, run).map(Ticket)
    }

    fn profile(&self, plan: PlanId) -> Result<Vec<u64>, BackendError> {
        self.with_plan(plan, |plan, staging, with| profile(plan, staging, with))
    }

    fn wait(&self, ticket: Ticket) -> Result<(), BackendError> {
        let mut state = self.checked()?;
        if ticket.0 > state.submissions.newest() {
            return Err(bad_handle(format!("there has been no run {}", ticket.0)));
        }
        state.submissions.wait(&self.gpu, ticket.0)
    }
}
