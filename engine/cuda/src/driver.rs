//! The driver's calls that several files make, each behind a function that says what it needs.
//!
//! Every call but the first needs the device's context to be current on the calling thread ([`Gpu::enter`]), and addresses and handles that are of
//! that context, which all of this crate's are.

use std::ffi::c_void;

use cudarc::driver::{DriverError, result, sys};
use longwave_contract::BackendError;

use crate::BACKEND;
use crate::fault::{internal, refusal};

/// An open device: its primary context and the one stream on which all happens in order, and one beside it for parts of graphs.
#[derive(Debug)]
pub(crate) struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    beside: sys::CUstream,
    /// Compute capability, times ten.
    pub(crate) capability: u32,
    /// Multiprocessors.
    pub(crate) processors: u32,
}

#[expect(unsafe_code, reason = "handles of the driver are raw pointers")]
// SAFETY: the driver's handles may be used from any thread; calls are made under the backend's lock, with the context made current first.
unsafe impl Send for Gpu {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// How much of a processor's memory is shared memory rather than first cache, in percent. A processor changes that only when no block is on it: if
/// it differed between kernels, blocks that begin early would wait for processors to empty, and then crowd on those that do so first.
const SHARED_CARVEOUT: i32 = 100;

/// Something that ends on the stream.
#[derive(Debug)]
pub(crate) struct Event(sys::CUevent);

#[expect(unsafe_code, reason = "as for Gpu")]
// SAFETY: as for `Gpu`.
unsafe impl Send for Event {}

/// Launches that are kept, to be launched together.
#[derive(Debug)]
pub(crate) struct Graph(sys::CUgraphExec);

#[expect(unsafe_code, reason = "as for Gpu")]
// SAFETY: as for `Gpu`.
unsafe impl Send for Graph {}

/// A kernel that the driver has loaded. It stays loaded for as long as the context lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function(sys::CUfunction);

#[expect(unsafe_code, reason = "as for Gpu")]
// SAFETY: as for `Gpu`.
unsafe impl Send for Function {}

/// Host memory that the device reads and writes directly.
#[derive(Debug)]
pub(crate) struct Pinned {
    start: *mut u8,
    bytes: usize,
}

#[expect(unsafe_code, reason = "as for Gpu")]
// SAFETY: the memory is owned, and reached through `&mut` only.
unsafe impl Send for Pinned {}

/// Whether the driver's library is there; every other call would panic where it is not.
pub(crate) fn present() -> bool {
    #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
    // SAFETY: the driver's own library, under the names that it is installed by.
    unsafe {
        sys::is_culib_present()
    }
}

/// How many devices the driver has.
///
/// # Errors
/// What the driver says, in words.
pub(crate) fn count() -> Result<usize, String> {
    let told = |error: DriverError| error.to_string();
    result::init().map_err(told)?;
    let count = result::device::get_count().map_err(told)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// What the driver says of a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) capability: u32,
    pub(crate) processors: u32,
    pub(crate) shared_memory: u32,
    pub(crate) integrated: bool,
    pub(crate) total: u64,
    /// The driver's version as it counts: 13000 for CUDA 13.0.
    pub(crate) driver: i32,
}

/// # Errors
/// What the driver says.
pub(crate) fn facts(index: usize) -> Result<Facts, DriverError> {
    use sys::CUdevice_attribute as Attribute;
    let device = handle(index)?;
    #[expect(unsafe_code, reason = "calls of the driver")]
    // SAFETY: the device is one that the driver named.
    let ask = |attribute| unsafe { result::device::get_attribute(device, attribute) };
    let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let number = |value: i32| u32::try_from(value).unwrap_or(0);
    let mut driver = 0;
    #[expect(unsafe_code, reason = "calls of the driver")]
    // SAFETY: the address of a number of ours; and the device is one that the driver named.
    let total = unsafe {
        sys::cuDriverGetVersion(&raw mut driver).result()?;
        result::device::total_mem(device)?
    };
    Ok(Facts {
        name: result::device::get_name(device)?,
        capability: number(10 * major + minor),
        processors: number(ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?),
        shared_memory: number(ask(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?),
        integrated: ask(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        total: total as u64,
        driver,
    })
}

fn handle(index: usize) -> Result<sys::CUdevice, DriverError> {
    let ordinal = i32::try_from(index);
    result::device::get(ordinal.map_err(|_| DriverError(sys::CUresult::CUDA_ERROR_INVALID_DEVICE))?)
}

impl Gpu {
    /// # Errors
    /// What the driver says.
    pub(crate) fn open(index: usize, facts: &Facts) -> Result<Self, BackendError> {
        let failed = |error| refusal(error, &facts.name, 0);
        let device = handle(index).map_err(failed)?;
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the device is one that the driver named; `drop` releases its context once.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        let mut gpu = Gpu {
            device,
            context,
            stream: std::ptr::null_mut(),
            beside: std::ptr::null_mut(),
            capability: facts.capability,
            processors: facts.processors,
        };
        gpu.enter()?;
        for stream in [&mut gpu.stream, &mut gpu.beside] {
            let kind = result::stream::StreamKind::NonBlocking;
            *stream = result::stream::create(kind).map_err(failed)?;
        }
        Ok(gpu)
    }

    fn stream_of(&self, line: Line) -> sys::CUstream {
        match line {
            Line::Main => self.stream,
            Line::Beside => self.beside,
        }
    }

    /// The stream, for libraries that queue work of their own.
    pub(crate) fn stream(&self) -> *mut c_void {
        self.stream.cast()
    }

    /// Makes the context current on this thread.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn enter(&self) -> Result<(), BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the context is retained for as long as `self` lives.
        let done = unsafe { result::ctx::set_current(self.context) };
        done.map_err(|error| refusal(error, "the context", 0))
    }

    /// Bytes that are free.
    pub(crate) fn free_memory(&self) -> Option<u64> {
        result::mem_get_info().ok().map(|(free, _)| free as u64)
    }

    /// Allocates memory, which is not cleared.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub(crate) fn allocate(&self, label: &str, bytes: u64) -> Result<u64, BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the context is current; nobody reads what the memory held before.
        let address = unsafe { result::malloc_sync(bytes as usize) };
        address.map_err(|error| refusal(error, label, bytes))
    }

    /// Gives memory back, once all that runs has ended.
    pub(crate) fn release(&self, address: u64) {
        if self.enter().is_ok() {
            #[expect(unsafe_code, reason = "calls of the driver")]
            // SAFETY: the address came from `allocate`; the driver waits for what uses it. An error means that the context is gone, and the memory with it.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    /// Fills memory with zeros.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn clear(&self, address: u64, bytes: u64) -> Result<(), BackendError> {
        let words = (bytes / 4) as usize;
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the range is one that `allocate` gave, and ours.
        let done = unsafe { sys::cuMemsetD32Async(address, 0, words, self.stream).result() };
        done.map_err(|error| refusal(error, "clearing memory", bytes))
    }

    /// Copies pinned bytes to the device. They must stay as they are until what follows on the stream has begun.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the range is within one of our buffers; `Staging` keeps the bytes until an event says that they were read.
        let done = unsafe { result::memcpy_htod_async(address, bytes, self.stream) };
        done.map_err(|error| refusal(error, "a write", bytes.len() as u64))
    }

    /// Copies from the device to pinned memory, and waits.
    ///
    /// # Errors
    /// What the driver says, of this and of all that ran before.
    pub(crate) fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        let size = bytes.len() as u64;
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the range is within one of our buffers, and the bytes are borrowed until the copy has ended.
        let done = unsafe { result::memcpy_dtoh_async(bytes, address, self.stream) };
        done.map_err(|error| refusal(error, "a read", size))?;
        self.finish()
    }

    /// Copies on the device.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: both ranges are within our buffers, and the caller has seen that they do not overlap.
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes as usize, self.stream) };
        done.map_err(|error| refusal(error, "a copy", bytes))
    }

    /// Waits for everything.
    ///
    /// # Errors
    /// What the driver says of all that ran before.
    pub(crate) fn finish(&self) -> Result<(), BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the stream is ours.
        let done = unsafe { result::stream::synchronize(self.stream) };
        done.map_err(|error| refusal(error, "a run", 0))
    }

    /// Loads a compiled kernel, whose blocks may have so many bytes of shared memory.
    ///
    /// # Errors
    /// What the driver says, for instance of an architecture that it does not know.
    pub(crate) fn load(
        &self,
        name: &str,
        image: &[u8],
        shared: u32,
    ) -> Result<Function, BackendError> {
        let failed = |error| refusal(error, name, 0);
        let entry = std::ffi::CString::new(name).map_err(|error| internal(error.to_string()))?;
        use sys::CUfunction_attribute_enum as Attribute;
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the image is a whole cubin, which the driver checks and copies; the module is never unloaded.
        let function = unsafe {
            let module = result::module::load_data(image.as_ptr().cast()).map_err(failed)?;
            let function = result::module::get_function(module, entry).map_err(failed)?;
            let fixed = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
            let fixed =
                result::function::get_function_attribute(function, fixed).map_err(failed)?;
            let dynamic = i32::try_from(shared)
                .unwrap_or(i32::MAX)
                .saturating_sub(fixed);
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(function, attribute, dynamic.max(0))
                .map_err(failed)?;
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            result::function::set_function_attribute(function, attribute, SHARED_CARVEOUT)
                .map_err(failed)?;
            function
        };
        Ok(Function(function))
    }

    /// Launches a kernel. Where the device can, it may begin before the one before it has ended: kernels wait themselves before they read or write.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn launch(&self, name: &str, launch: &Launch<'_>) -> Result<(), BackendError> {
        let mut slots = launch.arguments.to_vec();
        let mut arguments: Vec<*mut c_void> = slots
            .iter_mut()
            .map(|slot| (&raw mut *slot).cast())
            .collect();
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let [x, y, z] = launch.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared,
            hStream: self.stream_of(launch.line),
            attrs: &raw mut attribute,
            numAttrs: u32::from(launch.overlaps && self.overlaps()),
        };
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the arguments are as many and of such types as the kernel's signature says, which `launch::dispatch` checks; addresses are of
        // buffers that the plan holds or of scratch memory, at least as large as the op's tensors.
        let done = unsafe {
            let null = std::ptr::null_mut();
            sys::cuLaunchKernelEx(
                &raw const config,
                launch.function.0,
                arguments.as_mut_ptr(),
                null,
            )
            .result()
        };
        done.map_err(|error| refusal(error, name, 0))
    }

    /// Whether a kernel may begin before the one before it has ended.
    fn overlaps(&self) -> bool {
        self.capability >= 90
    }

    /// Keeps what `record` launches, instead of running it.
    ///
    /// # Errors
    /// What `record` or the driver says.
    pub(crate) fn capture(
        &self,
        label: &str,
        record: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<Graph, BackendError> {
        let failed = |error| refusal(error, label, 0);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the stream is ours, and not being captured.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(failed)?;
        let recorded = record();
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the capture that was begun above.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        let graph = graph.map_err(failed);
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the graph is whole, and is not used after it was destroyed; its executable form does not need it.
        let made = |graph| unsafe {
            let ready = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            ready.map(Graph).map_err(failed)
        };
        // What was recorded goes back to the driver also where recording failed.
        let ready = graph.and_then(made);
        recorded.and(ready)
    }

    /// Runs a graph.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn run(&self, label: &str, graph: &Graph) -> Result<(), BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: graph and stream are of one context, and what the graph's kernels read is held by its plan.
        let done = unsafe { result::graph::launch(graph.0, self.stream) };
        done.map_err(|error| refusal(error, label, 0))
    }

    /// Makes an event, with time stamps or without.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn event(&self, timed: bool) -> Result<Event, BackendError> {
        let flags = match timed {
            true => sys::CUevent_flags::CU_EVENT_DEFAULT,
            false => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
        };
        let event = result::event::create(flags);
        event
            .map(Event)
            .map_err(|error| refusal(error, "an event", 0))
    }

    /// Has an event happen when all that was asked for before has ended; within [`Gpu::capture`], whenever the graph gets there.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn record(&self, event: &Event, captured: bool) -> Result<(), BackendError> {
        let flags = match captured {
            true => sys::CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL as u32,
            false => sys::CUevent_record_flags_enum::CU_EVENT_RECORD_DEFAULT as u32,
        };
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: event and stream are of one context.
        let done = unsafe { sys::cuEventRecordWithFlags(event.0, self.stream, flags).result() };
        done.map_err(|error| refusal(error, "an event", 0))
    }

    /// Has an event happen, within [`Gpu::capture`], when all that was asked for before on a line has ended.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn mark(&self, event: &Event, line: Line) -> Result<(), BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: event and stream are of one context.
        let done = unsafe { result::event::record(event.0, self.stream_of(line)) };
        done.map_err(|error| refusal(error, "an event", 0))
    }

    /// Has a line wait for an event that was marked.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn follow(&self, event: &Event, line: Line) -> Result<(), BackendError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: event and stream are of one context.
        let done = unsafe { result::stream::wait_event(self.stream_of(line), event.0, flags) };
        done.map_err(|error| refusal(error, "an event", 0))
    }

    /// Waits for an event.
    ///
    /// # Errors
    /// What the driver says of all that ran before.
    pub(crate) fn wait(&self, event: &Event) -> Result<(), BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the event is ours.
        let done = unsafe { result::event::synchronize(event.0) };
        done.map_err(|error| refusal(error, "a run", 0))
    }

    /// Nanoseconds from one event to another, both of which have happened.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn nanoseconds(&self, from: &Event, to: &Event) -> Result<u64, BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: both are timed events of ours.
        let took = unsafe { result::event::elapsed(from.0, to.0) };
        let took = took.map_err(|error| refusal(error, "time stamps", 0))?;
        Ok((f64::from(took) * 1e6) as u64)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: stream and context are ours, and nothing uses them after. Errors mean that they are gone already.
        unsafe {
            for stream in [self.stream, self.beside] {
                if !stream.is_null() {
                    let _ = result::stream::synchronize(stream);
                    let _ = result::stream::destroy(stream);
                }
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the event is ours, and not used after.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the graph is ours, and not used after; the driver keeps what still runs.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}

/// Where work is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The stream on which all happens in order.
    Main,
    /// Beside it, within a graph.
    Beside,
}

/// A launch of a kernel.
pub(crate) struct Launch<'a> {
    pub(crate) line: Line,
    /// Whether it may begin before the one before it on its line has ended.
    pub(crate) overlaps: bool,
    pub(crate) function: Function,
    /// One slot for each argument: an address, or a number in its low half.
    pub(crate) arguments: &'a [u64],
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
}

impl Pinned {
    /// # Errors
    /// What the driver says.
    pub(crate) fn new(bytes: usize) -> Result<Self, BackendError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the memory is filled with zeros before anyone reads it, and freed once.
        let start = unsafe {
            let start = result::malloc_host(bytes, 0);
            if let Ok(start) = start {
                std::ptr::write_bytes(start.cast::<u8>(), 0, bytes);
            }
            start
        };
        let start = start.map_err(|error| refusal(error, "memory of the host", bytes as u64))?;
        if start.is_null() {
            return Err(BackendError::OutOfMemory {
                backend: BACKEND,
                label: "memory of the host".into(),
                bytes: bytes as u64,
            });
        }
        Ok(Pinned {
            start: start.cast(),
            bytes,
        })
    }

    /// The bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "memory of the driver")]
        // SAFETY: `new` made `bytes` initialised bytes, which are ours until `drop`.
        unsafe {
            std::slice::from_raw_parts_mut(self.start, self.bytes)
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the memory came from `malloc_host`, and is not used after.
        let _ = unsafe { result::free_host(self.start.cast()) };
    }
}
