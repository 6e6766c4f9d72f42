//! Compiled kernels on disk, where the driver lets them be kept: a start compiles only what is new.
//!
//! What is kept is the driver's own; it is used only where wgpu finds that it is whole and of this adapter, and the driver that it is of this
//! version. Whatever goes wrong with the file costs time, nothing else, and is not reported.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The kept kernels of one device.
#[derive(Debug)]
pub(crate) struct KernelCache {
    raw: Option<wgpu::PipelineCache>,
    file: PathBuf,
    /// Whether kernels were compiled that the file may lack.
    grown: AtomicBool,
}

impl KernelCache {
    /// What is kept in a folder; nothing without one, or where the interface keeps no kernels.
    pub(crate) fn open(
        device: &wgpu::Device,
        adapter: &wgpu::AdapterInfo,
        folder: Option<&Path>,
    ) -> Self {
        let keeps = device.features().contains(wgpu::Features::PIPELINE_CACHE);
        let name = wgpu::util::pipeline_cache_key(adapter).filter(|_| keeps);
        let Some((folder, name)) = folder.zip(name) else {
            return KernelCache {
                raw: None,
                file: PathBuf::new(),
                grown: AtomicBool::new(false),
            };
        };
        let file = folder.join(name);
        let data = std::fs::read(&file).ok();
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: Some("kernels"),
            data: data.as_deref(),
            fallback: true,
        };
        #[expect(
            unsafe_code,
            reason = "wgpu demands it for data that a driver is to trust"
        )]
        // SAFETY: the data is absent or what `PipelineCache::get_data` gave, written by `save` to a file of the user's own; wgpu checks its header
        // and length, and drivers theirs.
        let raw = unsafe { device.create_pipeline_cache(&descriptor) };
        KernelCache {
            raw: Some(raw),
            file,
            grown: AtomicBool::new(false),
        }
    }

    /// For a pipeline that is compiled.
    pub(crate) fn raw(&self) -> Option<&wgpu::PipelineCache> {
        self.grown.store(true, Ordering::Relaxed);
        self.raw.as_ref()
    }

    /// Writes the file, whole or not at all.
    fn save(&self) -> std::io::Result<()> {
        let data = self.raw.as_ref().and_then(wgpu::PipelineCache::get_data);
        let (Some(data), Some(folder)) = (data, self.file.parent()) else {
            return Ok(());
        };
        // What several processes have compiled is not put together: the last one's is kept.
        std::fs::create_dir_all(folder)?;
        let part = self
            .file
            .with_extension(format!("{}.part", std::process::id()));
        std::fs::write(&part, data)?;
        std::fs::rename(part, &self.file)
    }
}

impl Drop for KernelCache {
    fn drop(&mut self) {
        if self.grown.load(Ordering::Relaxed) {
            // Only time is lost where this fails.
            let _ = self.save();
        }
    }
}
