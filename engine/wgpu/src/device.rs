//! Adapters, the choice of one, and the open device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longwave_contract::{BackendError, Caps, CooperativeMatrix, DeviceKind};

use crate::BACKEND;
use crate::budget;
use crate::fault::{Faults, internal};
use crate::kernel_cache::KernelCache;

/// A submission that takes longer than this will not end: drivers reset a device long before.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Share of the memory budget that the driver reports, in percent, beyond which allocations fail as out of memory. Without it some
/// drivers move buffers to host memory instead, which is far slower than an error is bad.
const BUDGET_PERCENT: u8 = 97;

/// The interfaces that are looked at. GL is left out: it has neither the bindings nor the memory model that the kernels need.
const INTERFACES: wgpu::Backends = wgpu::Backends::VULKAN
    .union(wgpu::Backends::METAL)
    .union(wgpu::Backends::DX12);

/// A device that this backend can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number: what `--device` takes.
    pub index: usize,
    /// Its name as the driver gives it.
    pub name: String,
    /// What kind of device it is.
    pub kind: DeviceKind,
    /// Name and version of the driver.
    pub driver: String,
    /// `vulkan`, `metal` or `dx12`.
    pub interface: &'static str,
    /// The largest buffer that a kernel can bind, in bytes.
    pub binding_limit: u64,
    /// The largest buffer, in bytes.
    pub buffer_limit: u64,
    /// Bytes that are free, where the interface tells.
    pub memory: Option<u64>,
    /// Bytes that a workgroup may share.
    pub workgroup_memory: u32,
}

impl std::fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let DeviceInfo {
            index,
            name,
            kind,
            interface,
            ..
        } = self;
        write!(f, "{index}: {name} ({}, {interface})", kind.name())
    }
}

/// All devices, in the order of their numbers. Empty where there is no driver.
pub fn devices() -> Vec<DeviceInfo> {
    adapters().into_iter().map(|(info, _)| info).collect()
}

fn adapters() -> Vec<(DeviceInfo, wgpu::Adapter)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: INTERFACES,
        memory_budget_thresholds: wgpu::MemoryBudgetThresholds {
            for_resource_creation: Some(BUDGET_PERCENT),
            for_device_loss: None,
        },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = pollster::block_on(instance.enumerate_adapters(INTERFACES));
    let described = adapters.into_iter().enumerate();
    described
        .map(|(index, adapter)| (describe(index, &adapter), adapter))
        .collect()
}

fn describe(index: usize, adapter: &wgpu::Adapter) -> DeviceInfo {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let discrete = info.device_type == wgpu::DeviceType::DiscreteGpu;
    DeviceInfo {
        index,
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
            wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => DeviceKind::Other,
            wgpu::DeviceType::Cpu => DeviceKind::Software,
        },
        driver: format!("{} {}", info.driver, info.driver_info)
            .trim()
            .into(),
        name: info.name,
        interface: info.backend.to_str(),
        binding_limit: limits.max_storage_buffer_binding_size,
        buffer_limit: limits.max_buffer_size,
        memory: budget::free(adapter, discrete),
        workgroup_memory: limits.max_compute_workgroup_storage_size,
    }
}

/// The place of the device that `wanted` names: a number, or a part of a name in any case; the best by kind where several or all fit.
///
/// # Errors
/// [`BackendError::NoDevice`], which lists what there is.
fn choose(
    found: &[DeviceInfo],
    wanted: Option<&str>,
    software: bool,
) -> Result<usize, BackendError> {
    let by_number = wanted
        .and_then(|text| text.trim().parse::<usize>().ok())
        .and_then(|number| found.iter().position(|info| info.index == number));
    if let Some(place) = by_number {
        return Ok(place);
    }
    // Who names a device may have a software one; who names none gets one only on request.
    let fits = |info: &DeviceInfo| match wanted {
        Some(text) => info
            .name
            .to_lowercase()
            .contains(&text.trim().to_lowercase()),
        None => software || info.kind != DeviceKind::Software,
    };
    let fitting = found.iter().enumerate().filter(|(_, info)| fits(info));
    if let Some((place, _)) = fitting.min_by_key(|(_, info)| info.kind) {
        return Ok(place);
    }
    let listed: Vec<String> = found.iter().map(DeviceInfo::to_string).collect();
    let there_is = match listed.as_slice() {
        [] => "no device was found; is a Vulkan, Metal or DX12 driver installed?".into(),
        _ => format!("there is {}", listed.join(", ")),
    };
    let why = match wanted {
        Some(text) => format!("no device is called `{text}`: {there_is}"),
        None => format!("no GPU: {there_is}"),
    };
    Err(BackendError::NoDevice {
        backend: BACKEND,
        why,
    })
}

/// An open device, its queue, and what it has reported.
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: wgpu::Limits,
    pub(crate) faults: Arc<Faults>,
    pub(crate) kernels: KernelCache,
}

/// Opens a device. `slab_limit` lowers the size at which buffers are cut; compiled kernels are kept in the folder `kernels`.
///
/// # Errors
/// [`BackendError::NoDevice`] when none fits or the driver does not open it.
pub(crate) fn open(
    wanted: Option<&str>,
    software: bool,
    slab_limit: Option<u64>,
    kernels: Option<&Path>,
) -> Result<(Gpu, Caps), BackendError> {
    let mut found = adapters();
    let infos: Vec<DeviceInfo> = found.iter().map(|(info, _)| info.clone()).collect();
    let (info, adapter) = found.swap_remove(choose(&infos, wanted, software)?);

    let matrices = cooperative_matrices(&adapter);
    let mut wished = wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP
        | wgpu::Features::SUBGROUP_BARRIER
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES
        | wgpu::Features::PIPELINE_CACHE;
    let mut experimental = wgpu::ExperimentalFeatures::disabled();
    if !matrices.is_empty() {
        wished |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        #[expect(unsafe_code, reason = "wgpu demands it for every experimental feature")]
        // SAFETY: the caller takes on that the feature may misbehave. Only shapes that the driver lists are used.
        let enabled = unsafe { wgpu::ExperimentalFeatures::enabled() };
        experimental = enabled;
    }
    let features = adapter.features() & wished;
    let limits = adapter.limits();
    let opened = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("longwave"),
        required_features: features,
        required_limits: limits.clone(),
        experimental_features: experimental,
        // The other hint holds up to twice of what is used.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        trace: wgpu::Trace::Off,
    }));
    let (device, queue) = opened.map_err(|error| BackendError::NoDevice {
        backend: BACKEND,
        why: format!("{info}: the driver does not open it: {error}"),
    })?;
    let faults = Arc::new(Faults::default());
    let reported = Arc::clone(&faults);
    device.on_uncaptured_error(Arc::new(move |error| reported.report(&error)));
    let lost = Arc::clone(&faults);
    device.set_device_lost_callback(move |reason, why| lost.lose(format!("{reason:?}: {why}")));

    let caps = caps(
        &info,
        &adapter.get_info(),
        &limits,
        features,
        matrices,
        slab_limit,
    );
    let kernels = KernelCache::open(&device, &adapter.get_info(), kernels);
    let gpu = Gpu {
        kernels,
        device,
        queue,
        limits,
        faults,
    };
    Ok((gpu, caps))
}

fn caps(
    info: &DeviceInfo,
    adapter: &wgpu::AdapterInfo,
    limits: &wgpu::Limits,
    features: wgpu::Features,
    matrices: Vec<CooperativeMatrix>,
    slab_limit: Option<u64>,
) -> Caps {
    let device_limit = info.binding_limit.min(info.buffer_limit);
    let slab_limit = slab_limit.map_or(device_limit, |limit| limit.clamp(256, device_limit));
    Caps {
        backend: BACKEND,
        device: info.name.clone(),
        driver: format!("{}, {}", info.interface, info.driver),
        kind: info.kind,
        memory: info.memory,
        slab_limit: slab_limit / 256 * 256,
        subgroup: features
            .contains(wgpu::Features::SUBGROUP)
            .then_some((adapter.subgroup_min_size, adapter.subgroup_max_size)),
        f16: features.contains(wgpu::Features::SHADER_F16),
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        workgroup_threads: limits.max_compute_invocations_per_workgroup,
        workgroups_per_axis: limits.max_compute_workgroups_per_dimension,
        cooperative_matrix: match features.contains(
            wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SUBGROUP_BARRIER,
        ) {
            true => matrices,
            false => Vec::new(),
        },
        half_products: false,
        stored_heads: &[],
        stored_norms: false,
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
    }
}

/// The shapes that WGSL can write, which are fewer than drivers list: square ones of 8 or 16, of f16 factors.
fn cooperative_matrices(adapter: &wgpu::Adapter) -> Vec<CooperativeMatrix> {
    use wgpu::CooperativeScalarType as Scalar;
    let mut shapes = Vec::new();
    for listed in adapter.cooperative_matrix_properties() {
        let (m, n, k) = (listed.m_size, listed.n_size, listed.k_size);
        let f32_accumulator = match listed.cr_type {
            Scalar::F32 => true,
            Scalar::F16 => false,
            _ => continue,
        };
        let shape = CooperativeMatrix {
            m,
            n,
            k,
            f32_accumulator,
        };
        let writable = m == n && n == k && (m == 8 || m == 16) && listed.ab_type == Scalar::F16;
        if writable && !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

impl Gpu {
    /// Runs something that creates on the device, and returns the error that it caused.
    pub(crate) fn scoped<T>(
        &self,
        create: impl FnOnce(&wgpu::Device) -> T,
    ) -> Result<T, wgpu::Error> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let inner = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let created = create(&self.device);
        // Scopes end in the reverse order of their beginning.
        let errors = [
            pollster::block_on(validation.pop()),
            pollster::block_on(inner.pop()),
            pollster::block_on(memory.pop()),
        ];
        errors.into_iter().flatten().next().map_or(Ok(created), Err)
    }

    /// Waits until a submission, or the last one, and all before it have ended, and runs the callbacks of mappings.
    ///
    /// # Errors
    /// [`BackendError::DeviceLost`], also when the submission does not end in two minutes; and what was reported meanwhile.
    pub(crate) fn wait(
        &self,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<(), BackendError> {
        if !self.poll(wgpu::PollType::Wait {
            submission_index: submission,
            timeout: Some(TIMEOUT),
        })? {
            let seconds = TIMEOUT.as_secs();
            self.faults
                .lose(format!("a submission did not end within {seconds} seconds"));
        }
        self.faults.check()
    }

    /// Whether a submission has ended.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub(crate) fn ended(&self, submission: wgpu::SubmissionIndex) -> Result<bool, BackendError> {
        self.poll(wgpu::PollType::Wait {
            submission_index: Some(submission),
            timeout: Some(Duration::ZERO),
        })
    }

    /// Frees what ended submissions still hold.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub(crate) fn reclaim(&self) -> Result<(), BackendError> {
        self.poll(wgpu::PollType::Poll).map(|_| ())
    }

    /// False when the time ran out.
    fn poll(&self, poll: wgpu::PollType) -> Result<bool, BackendError> {
        // wgpu panics when the device was lost while it waits; it holds no lock at that point.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(poll)));
        let in_time = match polled {
            Ok(Ok(_)) => true,
            Ok(Err(wgpu::PollError::Timeout)) => false,
            Ok(Err(error @ wgpu::PollError::WrongSubmissionIndex(..))) => {
                self.faults.check()?;
                return Err(internal(error.to_string()));
            }
            Err(_) => {
                self.faults.lose("the driver failed while waiting");
                false
            }
        };
        self.faults.check().map(|()| in_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(index: usize, name: &str, kind: DeviceKind) -> DeviceInfo {
        DeviceInfo {
            index,
            name: name.into(),
            kind,
            driver: String::new(),
            interface: "vulkan",
            binding_limit: 1 << 27,
            buffer_limit: 1 << 30,
            memory: None,
            workgroup_memory: 1 << 15,
        }
    }

    fn found() -> Vec<DeviceInfo> {
        vec![
            info(0, "llvmpipe (LLVM 15)", DeviceKind::Software),
            info(1, "Onboard Graphics", DeviceKind::Integrated),
            info(2, "Fast Card 3090", DeviceKind::Discrete),
            info(3, "Fast Card 4090", DeviceKind::Discrete),
        ]
    }

    #[test]
    fn the_best_kind_is_chosen_and_the_first_of_it() {
        assert_eq!(choose(&found(), None, true), Ok(2));
        assert_eq!(choose(&found()[..2], None, true), Ok(1));
        assert_eq!(choose(&found()[..1], None, true), Ok(0));
    }

    #[test]
    fn a_device_is_named_by_number_or_by_part_of_its_name() {
        assert_eq!(choose(&found(), Some("1"), false), Ok(1));
        assert_eq!(choose(&found(), Some("4090"), false), Ok(3));
        assert_eq!(choose(&found(), Some("fast card"), false), Ok(2));
        assert_eq!(choose(&found(), Some("LLVMpipe"), false), Ok(0));
    }

    #[test]
    fn software_is_chosen_only_on_request_and_errors_list_what_there_is() {
        let error = choose(&found()[..1], None, false).expect_err("only software");
        assert!(
            error
                .to_string()
                .contains("0: llvmpipe (LLVM 15) (software, vulkan)"),
            "{error}"
        );
        let error = choose(&found(), Some("none such"), true).expect_err("no such name");
        assert!(
            error.to_string().contains("none such") && error.to_string().contains("4090"),
            "{error}"
        );
        let error = choose(&[], None, true).expect_err("nothing there");
        assert!(error.to_string().contains("no device was found"), "{error}");
    }
}
