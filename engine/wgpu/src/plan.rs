//! Prepared recordings.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use longwave_contract::{BackendError, BufferId, Caps, Recording, Slabs, Tensor};
use longwave_shaders::BindingKind;

use crate::BACKEND;
use crate::device::Gpu;
use crate::fault::{bad_handle, internal, refusal};
use crate::launch::{Bound, Context, Dispatch, Force, launch};
use crate::memory::{Account, Buffer, Buffers, DeviceBuffer, Piece};
use crate::pipeline::Pipelines;
use crate::submission::Submissions;

/// Working memory of kernels, by number. What one op leaves there the next may overwrite, so all plans share it.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    buffers: BTreeMap<usize, DeviceBuffer>,
    /// Counts the buffers that were taken away: plans that were bound before must be bound again.
    generation: u64,
}

/// What plans are made of, and made with.
pub(crate) struct Workshop<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) caps: &'a Caps,
    pub(crate) account: &'a Arc<Account>,
    pub(crate) buffers: &'a Buffers,
    pub(crate) pipelines: &'a mut Pipelines,
    pub(crate) scratch: &'a mut Scratch,
}

/// One dispatch, ready to be encoded.
#[derive(Debug)]
struct Step {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    /// Of its parameters in the plan's uniform buffer.
    offset: u32,
    grid: [u32; 3],
    work: u64,
}

/// A prepared recording.
#[derive(Debug)]
pub(crate) struct Plan {
    label: String,
    /// Each dispatch with its op's name.
    dispatches: Vec<(&'static str, Dispatch)>,
    /// Where each op's dispatches end.
    ends: Vec<usize>,
    buffers: HashSet<BufferId>,
    /// Parameters of all dispatches, and the distance from one's to the next's.
    params: DeviceBuffer,
    stride: u64,
    /// Absent while an operand that they named is gone: bindings keep the memory that they name.
    steps: Option<Vec<Step>>,
    /// All steps, encoded while the device ran them the last time, so that it need not wait for that the next time.
    spare: Option<wgpu::CommandBuffer>,
    /// Whether the plan has run before: what runs once needs no spare.
    ran: bool,
    /// Scratch memory's generation when they were bound.
    generation: u64,
}

impl Scratch {
    /// Makes every buffer as large as the dispatches need.
    fn grow(
        &mut self,
        gpu: &Gpu,
        account: &Arc<Account>,
        dispatches: &[(&'static str, Dispatch)],
    ) -> Result<(), BackendError> {
        let mut needs: BTreeMap<usize, u64> = BTreeMap::new();
        let bound = dispatches
            .iter()
            .flat_map(|(_, dispatch)| &dispatch.bindings);
        for (_, bound) in bound {
            if let Bound::Scratch { index, bytes } = *bound {
                let need = needs.entry(index).or_default();
                *need = bytes.max(*need);
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
            let label = format!("scratch {index}");
            let buffer = DeviceBuffer::new(
                gpu,
                account,
                &label,
                bytes,
                wgpu::BufferUsages::STORAGE,
                false,
            )?;
            self.buffers.insert(index, buffer);
        }
        Ok(())
    }

    fn piece(&self, index: usize, bytes: u64) -> Result<Piece<'_>, BackendError> {
        let missing = || internal(format!("there is no scratch buffer {index}"));
        let buffer = self.buffers.get(&index).ok_or_else(missing)?;
        Ok(Piece {
            buffer: &buffer.raw,
            offset: 0,
            bytes: bytes.max(1).next_multiple_of(16),
        })
    }

    /// Gives all of it back.
    pub(crate) fn clear(&mut self) {
        self.generation += 1;
        self.buffers.clear();
    }
}

impl Plan {
    /// Chooses and compiles kernels, grows scratch memory, and binds everything.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`], [`BackendError::BadHandle`] for operands that are not there, and device errors.
    pub(crate) fn prepare(
        recording: &Recording,
        force: Force,
        workshop: &mut Workshop<'_>,
    ) -> Result<Plan, BackendError> {
        let mut operands = HashSet::new();
        for operand in recording.ops().iter().flat_map(|op| op.operands()) {
            workshop.buffers.holding(operand.tensor)?;
            operands.insert(operand.tensor.buffer);
        }
        let uncut = Slabs::new(0, 1, u64::MAX).ok_or_else(|| internal("nothing is too large"))?;
        let cut = |tensor: Tensor| {
            let buffer = workshop.buffers.get(tensor.buffer);
            buffer.map_or(uncut, Buffer::slabs)
        };
        let context = Context {
            caps: workshop.caps,
            force,
            slabs: &cut,
        };
        let (mut dispatches, mut ends) = (Vec::new(), Vec::new());
        for op in recording.ops() {
            let launched = launch(op, &context)?;
            dispatches.extend(launched.into_iter().map(|dispatch| (op.name(), dispatch)));
            ends.push(dispatches.len());
        }
        workshop
            .pipelines
            .compile(workshop.gpu, workshop.caps, &dispatches)?;
        let (params, stride) = params(&dispatches, workshop)?;
        let mut plan = Plan {
            label: recording.label().into(),
            dispatches,
            ends,
            buffers: operands,
            params,
            stride,
            steps: None,
            spare: None,
            ran: false,
            generation: 0,
        };
        plan.bind(workshop)?;
        Ok(plan)
    }

    /// Each dispatch as `op: kernel`.
    pub(crate) fn kernels(&self) -> Vec<String> {
        let named = self.dispatches.iter();
        named
            .map(|(op, dispatch)| format!("{op}: {}", dispatch.kernel.name))
            .collect()
    }

    /// Whether the plan names this buffer.
    pub(crate) fn names(&self, buffer: BufferId) -> bool {
        self.buffers.contains(&buffer)
    }

    /// Lets go of all buffers. They are bound again at the next run, where they are still there.
    pub(crate) fn unbind(&mut self) {
        self.steps = None;
        self.spare = None;
    }

    /// Whether all buffers are bound.
    pub(crate) fn is_bound(&self, scratch: &Scratch) -> bool {
        self.steps.is_some() && self.generation == scratch.generation
    }

    /// Binds all buffers, where they are not bound, with as much scratch memory as the plan needs.
    ///
    /// # Errors
    /// [`BackendError::BadHandle`] when a buffer was freed, [`BackendError::OutOfMemory`] for scratch memory.
    pub(crate) fn bind(&mut self, workshop: &mut Workshop<'_>) -> Result<(), BackendError> {
        if self.is_bound(workshop.scratch) {
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
            .grow(workshop.gpu, workshop.account, &self.dispatches)?;
        let dispatches = self.dispatches.iter().enumerate();
        let steps =
            dispatches.map(|(place, (op, dispatch))| self.step(place, op, dispatch, workshop));
        self.steps = Some(steps.collect::<Result<_, _>>()?);
        self.generation = workshop.scratch.generation;
        Ok(())
    }

    fn step(
        &self,
        place: usize,
        op: &'static str,
        dispatch: &Dispatch,
        workshop: &Workshop<'_>,
    ) -> Result<Step, BackendError> {
        let kernel = dispatch.kernel;
        let fail = |why: String| internal(format!("{}: {why}", kernel.name));
        let unknown = dispatch
            .bindings
            .iter()
            .find(|(name, _)| kernel.binding(name).is_none());
        if let Some((name, _)) = unknown {
            return Err(fail(format!("there is no binding `{name}`")));
        }
        let mut entries = Vec::with_capacity(kernel.bindings.len());
        for binding in kernel.bindings {
            let piece = if binding.kind == BindingKind::Params {
                Piece {
                    buffer: &self.params.raw,
                    offset: 0,
                    bytes: u64::from(kernel.params_words) * 4,
                }
            } else {
                let mut given = dispatch.bindings.iter();
                let bound = given
                    .find(|(name, _)| *name == binding.name)
                    .map(|(_, bound)| *bound)
                    .ok_or_else(|| fail(format!("nothing is bound to `{}`", binding.name)))?;
                resolve(bound, op, binding.name, workshop)?
            };
            entries.push(wgpu::BindGroupEntry {
                binding: binding.index,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: piece.buffer,
                    offset: piece.offset,
                    size: wgpu::BufferSize::new(piece.bytes),
                }),
            });
        }
        let compiled = workshop.pipelines.get(dispatch)?;
        let bindings = workshop.gpu.scoped(|device| {
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel.name),
                layout: &compiled.layout,
                entries: &entries,
            })
        });
        let offset = u32::try_from(self.stride * place as u64);
        Ok(Step {
            pipeline: compiled.pipeline.clone(),
            bindings: bindings.map_err(|error| refusal(&error, kernel.name, 0))?,
            offset: offset.map_err(|_| fail("too many dispatches in a plan".into()))?,
            grid: dispatch.grid,
            work: dispatch.work,
        })
    }

    /// Encodes the plan, where it is not encoded yet, submits it as far as is needed to keep submissions short, and returns the number of the
    /// submission that will hold its end.
    ///
    /// # Errors
    /// Device errors, and [`BackendError::Internal`] for a plan that is not bound.
    pub(crate) fn run(
        &mut self,
        gpu: &Gpu,
        submissions: &mut Submissions,
    ) -> Result<u64, BackendError> {
        let spare = self.spare.take();
        let unbound = || internal(format!("the plan `{}` is not bound", self.label));
        let steps = self.steps.as_deref().ok_or_else(unbound)?;
        let works = steps.iter().map(|step| step.work);
        let holds = submissions.holds(works.clone());
        match spare {
            Some(commands) if holds => {
                let work = works.fold(0, u64::saturating_add);
                submissions.submit_ready(gpu, commands, work)?;
            }
            _ => self.encode_all(steps, gpu, submissions)?,
        }
        if holds && self.ran && !steps.is_empty() {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            self.encode(steps, &mut encoder, None);
            self.spare = Some(encoder.finish());
        }
        self.ran = true;
        Ok(submissions.newest())
    }

    /// Encodes steps in as many submissions as keep each of them short; the last stays open.
    fn encode_all(
        &self,
        mut rest: &[Step],
        gpu: &Gpu,
        submissions: &mut Submissions,
    ) -> Result<(), BackendError> {
        while !rest.is_empty() {
            let count = submissions.room(rest.iter().map(|step| step.work));
            if count == 0 {
                submissions.flush(gpu)?;
                continue;
            }
            let (now, later) = rest.split_at(count);
            self.encode(now, submissions.encoder(gpu), None);
            submissions.add(now.iter().map(|step| step.work));
            rest = later;
        }
        Ok(())
    }

    /// Encodes some steps as one pass, and returns their work.
    fn encode(
        &self,
        steps: &[Step],
        encoder: &mut wgpu::CommandEncoder,
        stamps: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) -> u64 {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(&self.label),
            timestamp_writes: stamps,
        });
        for step in steps {
            pass.set_pipeline(&step.pipeline);
            pass.set_bind_group(0, &step.bindings, &[step.offset]);
            let [x, y, z] = step.grid;
            pass.dispatch_workgroups(x, y, z);
        }
        drop(pass);
        let works = steps.iter().map(|step| step.work);
        works.fold(0, u64::saturating_add)
    }

    /// How many ops the recording has.
    pub(crate) fn op_count(&self) -> usize {
        self.ends.len()
    }

    /// Encodes all steps of one op as one pass, and returns their work.
    ///
    /// # Errors
    /// [`BackendError::Internal`] for a plan that is not bound or an op that it has not.
    pub(crate) fn encode_op(
        &self,
        index: usize,
        encoder: &mut wgpu::CommandEncoder,
        stamps: wgpu::ComputePassTimestampWrites<'_>,
    ) -> Result<u64, BackendError> {
        let first = match index.checked_sub(1) {
            None => Some(&0),
            Some(before) => self.ends.get(before),
        };
        let range = first.zip(self.ends.get(index));
        let steps = self.steps.as_deref();
        let steps = range.and_then(|(first, end)| steps?.get(*first..*end));
        let missing = || internal(format!("the plan `{}` has no op {index}", self.label));
        Ok(self.encode(steps.ok_or_else(missing)?, encoder, Some(stamps)))
    }
}

/// The uniform buffer of a plan: one slot for each dispatch.
fn params(
    dispatches: &[(&'static str, Dispatch)],
    workshop: &Workshop<'_>,
) -> Result<(DeviceBuffer, u64), BackendError> {
    let alignment = u64::from(
        workshop
            .gpu
            .limits
            .min_uniform_buffer_offset_alignment
            .max(16),
    );
    let words = |dispatch: &Dispatch| u64::from(dispatch.kernel.params_words) * 4;
    let largest = dispatches.iter().map(|(_, dispatch)| words(dispatch)).max();
    let stride = largest.unwrap_or(0).max(1).next_multiple_of(alignment);
    let bytes = stride * dispatches.len().max(1) as u64;
    let usage = wgpu::BufferUsages::UNIFORM;
    let buffer = DeviceBuffer::new(
        workshop.gpu,
        workshop.account,
        "parameters",
        bytes,
        usage,
        true,
    )?;
    {
        let refused = |error: wgpu::MapRangeError| internal(error.to_string());
        let mut view = buffer.raw.get_mapped_range_mut(..).map_err(refused)?;
        for (place, (_, dispatch)) in dispatches.iter().enumerate() {
            if dispatch.params.len() as u64 * 4 != words(dispatch) {
                let (name, found) = (dispatch.kernel.name, dispatch.params.len());
                return Err(internal(format!("{name}: {found} words of parameters")));
            }
            let start = place * stride as usize;
            let range: Range<usize> = start..start + dispatch.params.len() * 4;
            view.slice(range)
                .copy_from_slice(bytemuck::cast_slice(&dispatch.params));
        }
    }
    buffer.raw.unmap();
    Ok((buffer, stride))
}

/// The bytes that a binding takes.
fn resolve<'a>(
    bound: Bound,
    op: &'static str,
    name: &str,
    workshop: &'a Workshop<'_>,
) -> Result<Piece<'a>, BackendError> {
    match bound {
        Bound::Scratch { index, bytes } => workshop.scratch.piece(index, bytes),
        Bound::Slab(tensor, index) => workshop.buffers.holding(tensor)?.slab(tensor, index),
        Bound::Tensor(tensor) => {
            let buffer = workshop.buffers.holding(tensor)?;
            let pieces = buffer.pieces(tensor.offset..tensor.offset + tensor.bytes())?;
            match pieces.as_slice() {
                [piece] => Ok(*piece),
                _ => Err(BackendError::Unsupported {
                    op,
                    backend: BACKEND,
                    why: format!("`{name}` ({tensor}) exceeds one binding"),
                }),
            }
        }
    }
}
