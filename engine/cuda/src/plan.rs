//! Prepared recordings.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use longwave_contract::{BackendError, BufferId, Recording};

use crate::driver::{self, Event, Function, Gpu, Graph, Line};
use crate::fault::{bad_handle, internal};
use crate::launch::{Argument, Context, Launch, launch_all};
use crate::lines::{Move, moves};
use crate::memory::{Account, Buffers, DeviceBuffer};
use crate::pipeline::Pipelines;
use crate::product::{Multiplier, Product, WORKSPACE};

/// The number of the scratch buffer that products work in, which no op's file names.
const PRODUCTS: usize = usize::MAX;

/// Working memory of kernels, by number. What one op leaves there the next may overwrite, so all plans share it.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    buffers: BTreeMap<usize, DeviceBuffer>,
    /// Counts the buffers that were taken away: plans that were bound before must be bound again.
    generation: u64,
}

/// What plans are made of, and made with.
pub(crate) struct Workshop<'a> {
    pub(crate) gpu: &'a Arc<Gpu>,
    pub(crate) account: &'a Arc<Account>,
    pub(crate) buffers: &'a Buffers,
    pub(crate) pipelines: &'a mut Pipelines,
    pub(crate) multiplier: Option<&'a Arc<Multiplier>>,
    pub(crate) scratch: &'a mut Scratch,
}

/// One launch, ready.
#[derive(Debug)]
enum Step {
    Kernel {
        name: &'static str,
        function: Function,
        arguments: Vec<u64>,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
    },
    Product {
        product: Product,
        /// Addresses of the input, the weights and the output.
        matrices: [u64; 3],
        workspace: u64,
    },
}

/// A prepared recording.
#[derive(Debug)]
pub(crate) struct Plan {
    label: String,
    /// Each launch with its op's name.
    launches: Vec<(&'static str, Launch)>,
    /// Where each op's launches end.
    ends: Vec<usize>,
    buffers: HashSet<BufferId>,
    /// Absent while an operand that they named is gone.
    steps: Option<Vec<Step>>,
    /// All steps as one, from the second run on: what runs once needs none.
    graph: Option<Graph>,
    ran: bool,
    /// Scratch memory's generation when the steps were bound.
    generation: u64,
}

impl Scratch {
    /// Makes every buffer as large as the launches need.
    fn grow(
        &mut self,
        gpu: &Arc<Gpu>,
        account: &Arc<Account>,
        launches: &[(&'static str, Launch)],
    ) -> Result<(), BackendError> {
        let mut needs: BTreeMap<usize, u64> = BTreeMap::new();
        let mut need = |index, bytes: u64| {
            let need: &mut u64 = needs.entry(index).or_default();
            *need = bytes.max(*need);
        };
        for (_, launch) in launches {
            let arguments = match launch {
                Launch::Kernel(dispatch) => &dispatch.arguments[..],
                Launch::Product { matrices, .. } => {
                    need(PRODUCTS, WORKSPACE);
                    matrices
                }
            };
            for argument in arguments {
                if let Argument::Scratch { index, bytes } = *argument {
                    need(index, bytes);
                }
            }
        }
        needs.retain(|index, bytes| {
            self.buffers
                .get(index)
                .is_none_or(|there| there.size() < *bytes)
        });
        for (index, bytes) in needs {
            // The old buffer goes before the new one comes. Where that finds no room, plans that used the old one make their own.
            if self.buffers.remove(&index).is_some() {
                self.generation += 1;
            }
            let buffer = DeviceBuffer::new(gpu, account, &format!("scratch {index}"), bytes)?;
            self.buffers.insert(index, buffer);
        }
        Ok(())
    }

    /// Gives all of it back.
    pub(crate) fn clear(&mut self) {
        self.generation += 1;
        self.buffers.clear();
    }
}

impl Plan {
    /// Chooses and compiles kernels, grows scratch memory, and looks up all addresses.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`], [`BackendError::BadHandle`] for operands that are not there, and device errors.
    pub(crate) fn prepare(
        recording: &Recording,
        context: &Context,
        workshop: &mut Workshop<'_>,
    ) -> Result<Plan, BackendError> {
        let mut buffers = HashSet::new();
        for operand in recording.ops().iter().flat_map(|op| op.operands()) {
            workshop.buffers.address(operand.tensor)?;
            buffers.insert(operand.tensor.buffer);
        }
        let (mut launches, mut ends) = (Vec::new(), Vec::new());
        let launched = launch_all(recording.ops(), context)?;
        for (op, launched) in recording.ops().iter().zip(launched) {
            launches.extend(launched.into_iter().map(|launch| (op.name(), launch)));
            ends.push(launches.len());
        }
        let kernels = launches.iter().filter_map(|(_, launch)| match launch {
            Launch::Kernel(dispatch) => Some(dispatch),
            Launch::Product { .. } => None,
        });
        workshop.pipelines.compile(workshop.gpu, kernels)?;
        let mut plan = Plan {
            label: recording.label().into(),
            launches,
            ends,
            buffers,
            steps: None,
            graph: None,
            ran: false,
            generation: 0,
        };
        plan.bind(workshop)?;
        Ok(plan)
    }

    /// Each launch as `op: kernel`.
    pub(crate) fn kernels(&self) -> Vec<String> {
        let named = self.launches.iter().map(|(op, launch)| match launch {
            Launch::Kernel(dispatch) => match dispatch.variant.as_slice() {
                [] => format!("{op}: {}", dispatch.kernel.name),
                variant => format!("{op}: {}[{}]", dispatch.kernel.name, variant.join(",")),
            },
            Launch::Product { .. } => format!("{op}: cublasLt"),
        });
        named.collect()
    }

    /// Whether the plan names this buffer.
    pub(crate) fn names(&self, buffer: BufferId) -> bool {
        self.buffers.contains(&buffer)
    }

    /// Lets go of all addresses. They are looked up again at the next run, where the buffers are still there.
    pub(crate) fn unbind(&mut self) {
        self.steps = None;
        self.graph = None;
    }

    /// Looks up all addresses, where that was not done, with as much scratch memory as the plan needs.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] when a buffer was freed, [`BackendError::OutOfMemory`] for scratch memory.
    pub(crate) fn bind(&mut self, workshop: &mut Workshop<'_>) -> Result<(), BackendError> {
        if self.steps.is_some() && self.generation == workshop.scratch.generation {
            return Ok(());
        }
        self.unbind();
        if self
            .buffers
            .iter()
            .any(|id| workshop.buffers.get(*id).is_err())
        {
            let what = format!("a buffer of the plan `{}` was freed", self.label);
            return Err(bad_handle(what));
        }
        workshop
            .scratch
            .grow(workshop.gpu, workshop.account, &self.launches)?;
        let steps = self
            .launches
            .iter()
            .map(|(_, launch)| step(launch, workshop));
        self.steps = Some(steps.collect::<Result<_, _>>()?);
        self.generation = workshop.scratch.generation;
        Ok(())
    }

    /// Runs the plan.
    ///
    /// # Errors
    /// Device errors, and [`BackendError::Internal`] for a plan that is not bound.
    pub(crate) fn run(&mut self, gpu: &Gpu) -> Result<(), BackendError> {
        if !self.ran {
            self.ran = true;
            return run_all(gpu, self.steps(0..self.launches.len())?);
        }
        if self.graph.is_none() {
            self.graph = Some(self.captured(gpu)?);
        }
        match &self.graph {
            Some(graph) => gpu.run(&self.label, graph),
            None => Err(self.unbound()),
        }
    }

    /// All steps as a graph, some of them beside the others.
    fn captured(&self, gpu: &Gpu) -> Result<Graph, BackendError> {
        let steps = self.steps(0..self.launches.len())?;
        let launches: Vec<&Launch> = self.launches.iter().map(|(_, launch)| launch).collect();
        let (moves, events) = moves(&launches, PRODUCTS);
        let events = (0..events).map(|_| gpu.event(false));
        let events = events.collect::<Result<Vec<_>, _>>()?;
        gpu.capture(&self.label, || {
            moves.iter().try_for_each(|next| match *next {
                Move::Launch {
                    index,
                    line,
                    overlaps,
                } => run(gpu, &steps[index], line, overlaps),
                Move::Mark { event, line } => gpu.mark(&events[event], line),
                Move::Follow { event, line } => gpu.follow(&events[event], line),
            })
        })
    }

    /// All steps with an event before each op and after the last, as a graph.
    ///
    /// # Errors
    /// Device errors, and [`BackendError::Internal`] for a plan that is not bound.
    pub(crate) fn stamped(&self, gpu: &Gpu, events: &[Event]) -> Result<Graph, BackendError> {
        gpu.capture(&self.label, || {
            let mut first = 0;
            for (event, &end) in events.iter().zip(&self.ends) {
                gpu.record(event, true)?;
                run_all(gpu, self.steps(first..end)?)?;
                first = end;
            }
            events
                .last()
                .map_or(Ok(()), |event| gpu.record(event, true))
        })
    }

    /// How many ops the recording has.
    pub(crate) fn op_count(&self) -> usize {
        self.ends.len()
    }

    /// What the recording is called.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    fn steps(&self, range: Range<usize>) -> Result<&[Step], BackendError> {
        let steps = self.steps.as_deref().and_then(|steps| steps.get(range));
        steps.ok_or_else(|| self.unbound())
    }

    fn unbound(&self) -> BackendError {
        internal(format!("the plan `{}` is not bound", self.label))
    }
}

fn run_all(gpu: &Gpu, steps: &[Step]) -> Result<(), BackendError> {
    let mut steps = steps.iter();
    steps.try_for_each(|step| run(gpu, step, Line::Main, true))
}

fn run(gpu: &Gpu, step: &Step, line: Line, overlaps: bool) -> Result<(), BackendError> {
    match step {
        Step::Kernel {
            name,
            function,
            arguments,
            grid,
            threads,
            shared,
        } => {
            let launch = driver::Launch {
                line,
                overlaps,
                function: *function,
                arguments,
                grid: *grid,
                threads: *threads,
                shared: *shared,
            };
            gpu.launch(name, &launch)
        }
        Step::Product {
            product,
            matrices,
            workspace,
        } => product.launch(*matrices, *workspace, gpu.stream()),
    }
}

fn step(launch: &Launch, workshop: &Workshop<'_>) -> Result<Step, BackendError> {
    let scratch = |index| {
        let buffer = workshop.scratch.buffers.get(&index);
        let missing = || internal(format!("there is no scratch buffer {index}"));
        buffer.map(DeviceBuffer::address).ok_or_else(missing)
    };
    let slot = |argument: Argument| match argument {
        Argument::Tensor(tensor) | Argument::Settled(tensor) => workshop.buffers.address(tensor),
        Argument::Absent => Ok(0),
        Argument::Scratch { index, .. } => scratch(index),
        Argument::U32(value) => Ok(u64::from(value)),
        Argument::F32(value) => Ok(u64::from(value.to_bits())),
    };
    match launch {
        Launch::Kernel(dispatch) => {
            let slots = dispatch.arguments.iter().map(|argument| slot(*argument));
            Ok(Step::Kernel {
                name: dispatch.kernel.name,
                function: workshop.pipelines.get(dispatch)?,
                arguments: slots.collect::<Result<_, _>>()?,
                grid: dispatch.grid,
                threads: dispatch.kernel.threads,
                shared: dispatch.shared,
            })
        }
        Launch::Product { shape, matrices } => {
            let missing = || internal("a product without its library");
            let [a, weight, y] = *matrices;
            Ok(Step::Product {
                product: Product::choose(workshop.multiplier.ok_or_else(missing)?, *shape)?,
                matrices: [slot(a)?, slot(weight)?, slot(y)?],
                workspace: scratch(PRODUCTS)?,
            })
        }
    }
}
