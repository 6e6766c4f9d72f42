//! Compiled kernels on disk: a start compiles only what is new.
//!
//! A file's name is a hash of all that its content follows from: the sources, the macros, the architecture, the compiler's version. So what is found
//! is right, as long as the folder is the user's own, and whole, as the hash of the code at its end says. Whatever goes wrong with a file costs time,
//! nothing else, and is not reported.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use longwave_cuda_kernels::{Kernel, PARTS};
use sha2::{Digest, Sha256};

/// The kept kernels.
#[derive(Debug, Default)]
pub(crate) struct KernelCache {
    folder: Option<PathBuf>,
}

impl KernelCache {
    /// What is kept in a folder; nothing without one.
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        KernelCache {
            folder: folder.map(|folder| folder.join("cuda")),
        }
    }

    fn file(
        &self,
        kernel: &Kernel,
        variant: &[&str],
        architecture: &str,
        version: (i32, i32),
    ) -> Option<PathBuf> {
        let mut hash = Sha256::new();
        let threads = kernel.threads.to_string();
        let version = format!("{}.{}", version.0, version.1);
        let given = [kernel.source, parts(), &threads, architecture, &version];
        for text in given.iter().chain(variant) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let name: String = hash
            .finalize()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.folder
            .as_ref()
            .map(|folder| folder.join(format!("{}-{name}.cubin", kernel.name)))
    }

    /// The machine code that is kept, or what `compile` makes, which is kept from then on.
    ///
    /// # Errors
    /// What `compile` says.
    pub(crate) fn get(
        &self,
        kernel: &Kernel,
        variant: &[&str],
        architecture: &str,
        version: (i32, i32),
        compile: impl FnOnce() -> Result<Vec<u8>, String>,
    ) -> Result<Vec<u8>, String> {
        let file = self.file(kernel, variant, architecture, version);
        let kept = file.as_ref().and_then(|file| std::fs::read(file).ok());
        if let Some(image) = kept.and_then(whole) {
            return Ok(image);
        }
        let image = compile()?;
        if let Some(file) = file {
            // Only time is lost where this fails.
            let _ = save(&file, &image);
        }
        Ok(image)
    }
}

/// The text of all parts: a kernel may include any.
fn parts() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| PARTS.iter().map(|(_, text)| *text).collect())
}

/// What a file holds, less the hash at its end, where that is right: the driver is not told how long an image is, so half of one must not reach it.
fn whole(mut kept: Vec<u8>) -> Option<Vec<u8>> {
    let end = kept.len().checked_sub(Sha256::output_size())?;
    let hash = kept.split_off(end);
    (Sha256::digest(&kept).as_slice() == hash).then_some(kept)
}

/// Writes a file with its hash, whole or not at all.
fn save(file: &Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let part = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, [image, Sha256::digest(image).as_slice()].concat())?;
    std::fs::rename(part, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_compiled_once_for_each_variant_and_version() {
        let folder = std::env::temp_dir().join(format!("longwave-kernels-{}", std::process::id()));
        let cache = KernelCache::new(Some(&folder));
        let kernel = longwave_cuda_kernels::kernel("embed").expect("the kernel is there");
        let made = std::cell::Cell::new(0);
        let get = |variant: &str, version| {
            let compile = || {
                made.set(made.get() + 1);
                Ok(format!("\x7fELF{variant}").into_bytes())
            };
            cache
                .get(kernel, &[variant], "sm_90a", version, compile)
                .expect("it compiles")
        };
        assert_eq!(get("F16", (13, 0)), b"\x7fELFF16");
        assert_eq!(get("F16", (13, 0)), b"\x7fELFF16");
        assert_eq!(made.get(), 1);
        get("Q4", (13, 0));
        get("F16", (13, 1));
        assert_eq!(made.get(), 3);
        // A file that was cut is made again, once.
        let file = cache.file(kernel, &["F16"], "sm_90a", (13, 0));
        let file = file.expect("there is a folder");
        std::fs::write(file, b"\x7fELFF").expect("the folder is ours");
        assert_eq!(get("F16", (13, 0)), b"\x7fELFF16");
        assert_eq!(get("F16", (13, 0)), b"\x7fELFF16");
        assert_eq!(made.get(), 4);
        std::fs::remove_dir_all(folder).expect("the folder is ours");
    }
}
