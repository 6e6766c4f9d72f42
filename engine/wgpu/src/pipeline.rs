//! Compiled kernels.

use std::collections::HashMap;
use std::num::{NonZero, NonZeroU64};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use longwave_contract::{BackendError, Caps};
use longwave_shaders::{Binding, BindingKind, Kernel};

use crate::BACKEND;
use crate::device::Gpu;
use crate::fault::{internal, refusal};
use crate::launch::{Dispatch, Force, cooperative};

/// Threads that compile at the same time, at most.
const COMPILERS: usize = 8;

/// A kernel with its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    kernel: &'static str,
    /// Names and bits of the overrides.
    overrides: Vec<(&'static str, u64)>,
}

impl Key {
    fn of(dispatch: &Dispatch) -> Self {
        let bits = dispatch.overrides.iter();
        Key {
            kernel: dispatch.kernel.name,
            overrides: bits.map(|(name, value)| (*name, value.to_bits())).collect(),
        }
    }
}

/// A compiled kernel and the layout of its bindings.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// The compiled kernels of a backend.
#[derive(Debug, Default)]
pub(crate) struct Pipelines {
    compiled: HashMap<Key, Pipeline>,
}

impl Pipelines {
    /// Compiles what the dispatches need and is not there yet, on several threads where several kernels are missing.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] for a kernel that needs what the device lacks, [`BackendError::Internal`] for one that the driver
    /// refuses.
    pub(crate) fn compile(
        &mut self,
        gpu: &Gpu,
        caps: &Caps,
        dispatches: &[(&'static str, Dispatch)],
    ) -> Result<(), BackendError> {
        let mut missing: Vec<(Key, &Dispatch)> = Vec::new();
        for (op, dispatch) in dispatches {
            let key = Key::of(dispatch);
            if self.compiled.contains_key(&key) || missing.iter().any(|(other, _)| *other == key) {
                continue;
            }
            fits(op, dispatch.kernel, caps, &gpu.limits)?;
            missing.push((key, dispatch));
        }
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = threads.min(COMPILERS).min(missing.len());
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        let work = || {
            while let Some((key, dispatch)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let built = build(gpu, dispatch);
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.push((key.clone(), built));
            }
        };
        let panicked = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let outcomes = threads.into_iter().map(|thread| thread.join());
            outcomes.filter(Result::is_err).count()
        });
        for (key, built) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.compiled.insert(key, built?);
        }
        if panicked > 0 {
            return Err(internal("the shader compiler panicked"));
        }
        gpu.faults.check()
    }

    /// The compiled kernel of a dispatch.
    ///
    /// # Errors
    /// [`BackendError::Internal`] when it has not been compiled.
    pub(crate) fn get(&self, dispatch: &Dispatch) -> Result<&Pipeline, BackendError> {
        let missing = || internal(format!("{} has not been compiled", dispatch.kernel.name));
        self.compiled.get(&Key::of(dispatch)).ok_or_else(missing)
    }
}

/// Whether the device has what a kernel needs.
fn fits(
    op: &'static str,
    kernel: &Kernel,
    caps: &Caps,
    limits: &wgpu::Limits,
) -> Result<(), BackendError> {
    let threads = kernel
        .workgroup
        .iter()
        .fold(1u32, |product, &size| product.saturating_mul(size));
    let lacking = [
        (
            kernel.needs.subgroup && caps.subgroup.is_none(),
            "subgroup operations",
        ),
        (kernel.needs.f16 && !caps.f16, "16-bit floats"),
        (
            kernel.needs.cooperative && !cooperative(caps, Force::default()),
            "matrix units",
        ),
        (
            kernel.shared_bytes > caps.workgroup_memory,
            "as much workgroup memory",
        ),
        (
            threads > caps.workgroup_threads,
            "as many threads in a workgroup",
        ),
        (
            kernel.bindings.len() > 1 + limits.max_storage_buffers_per_shader_stage as usize,
            "as many storage buffers",
        ),
    ];
    match lacking.iter().find(|(lacks, _)| *lacks) {
        None => Ok(()),
        Some((_, what)) => Err(BackendError::Unsupported {
            op,
            backend: BACKEND,
            why: format!(
                "{} needs {what}, which the device does not offer",
                kernel.name
            ),
        }),
    }
}

fn build(gpu: &Gpu, dispatch: &Dispatch) -> Result<Pipeline, BackendError> {
    let kernel = dispatch.kernel;
    let entries: Vec<_> = kernel
        .bindings
        .iter()
        .map(|binding| layout_entry(kernel, binding))
        .collect();
    let create = |device: &wgpu::Device| {
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.name),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let source = wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(kernel.source.into()),
        };
        #[expect(
            unsafe_code,
            reason = "wgpu demands it for shaders without run-time checks, which cost up to a hundredfold"
        )]
        // SAFETY: the sources are those of longwave-shaders, fixed when this was built. Their indices follow from row counts, which they
        // clamp to their parameters, and from shapes, which the contract's checks hold against the operands; every tensor is bound whole, or
        // by whole rows that a parameter counts (`plan`). What they index, divide or count by that lies in device memory (the words of rows,
        // views, entries, picks, stores, blocks, components and ordinals) rests on the runtime, which writes there what the contract allows;
        // beyond that the driver's own bounds checks remain, which wgpu asks for wherever there are any. All other loops are bounded by
        // parameters.
        let module = unsafe {
            device.create_shader_module_trusted(source, wgpu::ShaderRuntimeChecks::unchecked())
        };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &dispatch.overrides,
                // Kernels write their workgroup memory before they read it.
                zero_initialize_workgroup_memory: false,
            },
            cache: gpu.kernels.raw(),
        });
        Pipeline { pipeline, layout }
    };
    gpu.scoped(create)
        .map_err(|error| refusal(&error, kernel.name, 0))
}

fn layout_entry(kernel: &Kernel, binding: &Binding) -> wgpu::BindGroupLayoutEntry {
    let (ty, min_binding_size) = match binding.kind {
        BindingKind::Params => (
            wgpu::BufferBindingType::Uniform,
            NonZeroU64::new(u64::from(kernel.params_words) * 4),
        ),
        // What an array needs at least depends on its element, which the driver's validation knows better.
        BindingKind::Read => (wgpu::BufferBindingType::Storage { read_only: true }, None),
        BindingKind::ReadWrite => (wgpu::BufferBindingType::Storage { read_only: false }, None),
    };
    wgpu::BindGroupLayoutEntry {
        binding: binding.index,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: binding.kind == BindingKind::Params,
            min_binding_size,
        },
        count: None,
    }
}
