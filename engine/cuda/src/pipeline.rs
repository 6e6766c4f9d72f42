//! Compiled kernels.

use std::collections::{BTreeMap, HashMap};

use longwave_contract::BackendError;
use longwave_cuda_kernels::Kernel;

use crate::compiler::Compiler;
use crate::driver::{Function, Gpu};
use crate::fault::internal;
use crate::kernel_cache::KernelCache;
use crate::launch::Dispatch;

/// What a compiled kernel is known by: its name and the values of its macros.
type Key = (&'static str, Vec<&'static str>);

/// All kernels that have been compiled for a device.
#[derive(Debug)]
pub(crate) struct Pipelines {
    workshop: Workshop,
    /// Bytes of shared memory that a block may have.
    shared: u32,
    loaded: HashMap<Key, Function>,
}

/// Where machine code comes from.
#[derive(Debug)]
struct Workshop {
    compiler: Compiler,
    cache: KernelCache,
    architecture: String,
}

impl Workshop {
    fn image(&self, kernel: &Kernel, variant: &[&'static str]) -> Result<Vec<u8>, String> {
        let (architecture, version) = (&self.architecture, self.compiler.version());
        let compile = || self.compiler.compile(kernel, variant, architecture);
        self.cache
            .get(kernel, variant, architecture, version, compile)
    }
}

/// The architecture whose own instructions a kernel may use on a device of this compute capability.
pub(crate) fn architecture(capability: u32) -> String {
    match capability {
        90.. => format!("sm_{capability}a"),
        _ => format!("sm_{capability}"),
    }
}

fn key(dispatch: &Dispatch) -> Key {
    (dispatch.kernel.name, dispatch.variant.clone())
}

impl Pipelines {
    pub(crate) fn new(
        compiler: Compiler,
        cache: KernelCache,
        capability: u32,
        shared: u32,
    ) -> Self {
        Pipelines {
            workshop: Workshop {
                compiler,
                cache,
                architecture: architecture(capability),
            },
            shared,
            loaded: HashMap::new(),
        }
    }

    /// Compiles the kernels that are new, several at a time.
    ///
    /// # Errors
    /// What the compiler or the driver says.
    pub(crate) fn compile<'a>(
        &mut self,
        gpu: &Gpu,
        dispatches: impl Iterator<Item = &'a Dispatch>,
    ) -> Result<(), BackendError> {
        let new = dispatches.map(|dispatch| (key(dispatch), dispatch.kernel));
        let new: BTreeMap<Key, &'static Kernel> = new
            .filter(|(key, _)| !self.loaded.contains_key(key))
            .collect();
        let new: Vec<(Key, &'static Kernel)> = new.into_iter().collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for some in new.chunks(threads) {
            let workshop = &self.workshop;
            let images: Vec<_> = std::thread::scope(|scope| {
                let compile = |(key, kernel): &(Key, &'static Kernel)| {
                    let (kernel, variant) = (*kernel, key.1.clone());
                    scope.spawn(move || workshop.image(kernel, &variant))
                };
                let made: Vec<_> = some.iter().map(compile).collect();
                let failed = |_| Err("the compiler failed".into());
                made.into_iter()
                    .map(|made| made.join().unwrap_or_else(failed))
                    .collect()
            });
            for ((key, kernel), image) in some.iter().zip(images) {
                let image = image.map_err(internal)?;
                let function = gpu.load(kernel.name, &image, self.shared)?;
                self.loaded.insert(key.clone(), function);
            }
        }
        Ok(())
    }

    /// The compiled kernel of a dispatch.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where it was not compiled.
    pub(crate) fn get(&self, dispatch: &Dispatch) -> Result<Function, BackendError> {
        let missing = || internal(format!("{} was not compiled", dispatch.kernel.name));
        self.loaded.get(&key(dispatch)).copied().ok_or_else(missing)
    }
}
