//! The backend: one device, its buffers and its plans.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longwave_contract::{
    Backend, BackendError, BufferDesc, BufferId, Caps, PlanId, Recording, Ticket,
};

use crate::BACKEND;
use crate::compiler::Compiler;
use crate::device;
use crate::driver::Gpu;
use crate::fault::{bad_handle, internal};
use crate::kernel_cache::KernelCache;
use crate::launch::{Context, Force};
use crate::memory::{Account, Buffers};
use crate::pipeline::Pipelines;
use crate::plan::{Plan, Scratch, Workshop};
use crate::product::Multiplier;
use crate::profile::profile;
use crate::staging::Staging;
use crate::submission::Submissions;

/// Which device to open, and what tests change about it.
#[derive(Clone, Debug, Default)]
pub struct CudaOptions {
    /// A device's number, or a part of its name in any case; the first that can be used where it is absent.
    pub device: Option<String>,
    /// Kernels that tests ask for.
    pub force: Force,
    /// Whether cuBLASLt is left alone even where it is there.
    pub no_products: bool,
    /// A folder in which compiled kernels are kept from one start to the next.
    pub kernels: Option<PathBuf>,
    /// Allocations beyond this many bytes fail as out of memory.
    pub memory_limit: Option<u64>,
}

/// Runs recordings on an NVIDIA GPU.
pub struct CudaBackend {
    // Dropped first: what it holds is the context's.
    state: Mutex<State>,
    gpu: Arc<Gpu>,
    caps: Caps,
    force: Force,
    account: Arc<Account>,
}

struct State {
    plans: HashMap<u32, Plan>,
    next_plan: u32,
    buffers: Buffers,
    pipelines: Pipelines,
    /// Where the library is there.
    multiplier: Option<Arc<Multiplier>>,
    scratch: Scratch,
    staging: Staging,
    submissions: Submissions,
    /// Why the device is gone, which stays so.
    lost: Option<String>,
}

impl CudaBackend {
    /// Opens a device.
    ///
    /// # Errors
    /// [`BackendError::NoDevice`], which says what is missing: the driver, a device, or the compiler of kernels, and how to get it.
    pub fn open(options: &CudaOptions) -> Result<Self, BackendError> {
        let (gpu, caps) = device::open(options.device.as_deref())?;
        let compiler = Compiler::open().map_err(|why| BackendError::NoDevice {
            backend: BACKEND,
            why,
        })?;
        let cache = KernelCache::new(options.kernels.as_deref());
        let pipelines = Pipelines::new(compiler, cache, gpu.capability, caps.workgroup_memory);
        let multiplier = match options.no_products {
            true => None,
            false => Multiplier::open().ok().map(Arc::new),
        };
        Ok(CudaBackend {
            gpu,
            caps,
            force: options.force,
            account: Arc::new(Account::new(options.memory_limit)),
            state: Mutex::new(State {
                plans: HashMap::new(),
                next_plan: 0,
                buffers: Buffers::default(),
                pipelines,
                multiplier,
                scratch: Scratch::default(),
                staging: Staging::default(),
                submissions: Submissions::default(),
                lost: None,
            }),
        })
    }

    /// The state. A panic while it was held leaves it usable: what was under construction is dropped.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the device, whose context is made current first. Once the device is lost, every call says so.
    fn with<T>(
        &self,
        method: impl FnOnce(&mut State) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let mut state = self.state();
        if let Some(why) = &state.lost {
            return Err(BackendError::DeviceLost {
                backend: BACKEND,
                why: why.clone(),
            });
        }
        self.gpu.enter()?;
        let done = method(&mut state);
        if let Err(BackendError::DeviceLost { why, .. }) = &done {
            state.lost = Some(why.clone());
        }
        done
    }

    /// The state, with the context made current: what is let go of goes back to the driver. Errors mean that the driver has it back already.
    fn letting_go(&self) -> MutexGuard<'_, State> {
        let state = self.state();
        let _ = self.gpu.enter();
        state
    }

    /// Does something with a plan, which is bound first.
    fn with_plan<T>(
        &self,
        plan: PlanId,
        method: impl FnOnce(&mut Plan, &mut Submissions) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        self.with(|state| {
            let unknown = || bad_handle(format!("there is no plan {}", plan.0));
            let plan = state.plans.get_mut(&plan.0).ok_or_else(unknown)?;
            plan.bind(&mut Workshop {
                gpu: &self.gpu,
                account: &self.account,
                buffers: &state.buffers,
                pipelines: &mut state.pipelines,
                multiplier: state.multiplier.as_ref(),
                scratch: &mut state.scratch,
            })?;
            method(plan, &mut state.submissions)
        })
    }
}

impl Drop for CudaBackend {
    fn drop(&mut self) {
        // What the fields hold goes back to the driver.
        let _ = self.gpu.enter();
    }
}

impl Backend for CudaBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn allocated(&self) -> u64 {
        self.account.bytes()
    }

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId, BackendError> {
        self.with(|state| state.buffers.alloc(&self.gpu, &self.account, desc))
    }

    fn free(&self, buffer: BufferId) {
        let mut state = self.letting_go();
        for plan in state.plans.values_mut().filter(|plan| plan.names(buffer)) {
            plan.unbind();
        }
        state.buffers.free(buffer);
    }

    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.with(|state| {
            let target = state.buffers.get(buffer)?;
            let address = target.range(offset, bytes.len() as u64)?;
            state.staging.write(&self.gpu, address, bytes)
        })
    }

    fn read(&self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.with(|state| {
            let source = state.buffers.get(buffer)?;
            let address = source.range(offset, bytes.len() as u64)?;
            state.staging.read(&self.gpu, address, bytes)
        })
    }

    fn copy(
        &self,
        from: (BufferId, u64),
        to: (BufferId, u64),
        bytes: u64,
    ) -> Result<(), BackendError> {
        self.with(|state| {
            let source = state.buffers.get(from.0)?.range(from.1, bytes)?;
            let target = state.buffers.get(to.0)?.range(to.1, bytes)?;
            if source < target + bytes && target < source + bytes {
                let (from, to) = (from.1, to.1);
                let what = format!(
                    "a copy of {bytes} bytes within a buffer, from {from} to {to}, overlaps"
                );
                return Err(bad_handle(what));
            }
            self.gpu.copy(source, target, bytes)
        })
    }

    fn prepare(&self, recording: &Recording) -> Result<PlanId, BackendError> {
        self.with(|state| {
            let context = Context {
                capability: self.gpu.capability,
                processors: self.gpu.processors,
                shared_memory: self.caps.workgroup_memory,
                products: state.multiplier.is_some(),
                force: self.force,
            };
            let mut workshop = Workshop {
                gpu: &self.gpu,
                account: &self.account,
                buffers: &state.buffers,
                pipelines: &mut state.pipelines,
                multiplier: state.multiplier.as_ref(),
                scratch: &mut state.scratch,
            };
            let plan = Plan::prepare(recording, &context, &mut workshop)?;
            let id = state.next_plan;
            let exhausted = || internal("all plan numbers are used up");
            state.next_plan = id.checked_add(1).ok_or_else(exhausted)?;
            state.plans.insert(id, plan);
            Ok(PlanId(id))
        })
    }

    fn kernels(&self, plan: PlanId) -> Vec<String> {
        let state = self.state();
        state
            .plans
            .get(&plan.0)
            .map(Plan::kernels)
            .unwrap_or_default()
    }

    fn release(&self, plan: PlanId) {
        let mut state = self.letting_go();
        state.plans.remove(&plan.0);
        if state.plans.is_empty() {
            state.scratch.clear();
        }
    }

    fn run(&self, plan: PlanId) -> Result<Ticket, BackendError> {
        self.with_plan(plan, |plan, submissions| {
            plan.run(&self.gpu)?;
            submissions.add(&self.gpu).map(Ticket)
        })
    }

    fn wait(&self, ticket: Ticket) -> Result<(), BackendError> {
        self.with(|state| state.submissions.wait(&self.gpu, ticket.0))
    }

    fn profile(&self, plan: PlanId) -> Result<Vec<u64>, BackendError> {
        self.with_plan(plan, |plan, _| profile(plan, &self.gpu))
    }
}
