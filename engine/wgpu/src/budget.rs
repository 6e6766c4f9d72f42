//! How much memory of a device is free. wgpu does not say; Vulkan does.

/// Bytes that are free for buffers, where the interface tells: the budget of the heaps that buffers come from, less what is in use. On a
/// GPU with memory of its own those are the heaps on the device, elsewhere all.
#[cfg(any(windows, target_os = "linux", target_os = "android"))]
pub(crate) fn free(adapter: &wgpu::Adapter, discrete: bool) -> Option<u64> {
    use ash::{ext, vk};

    #[expect(unsafe_code, reason = "wgpu hands its Vulkan objects out only so")]
    // SAFETY: the objects are only asked for properties, and dropped with the guard.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let device = adapter.raw_physical_device();
    let instance = adapter.shared_instance();
    if instance.instance_api_version() < vk::API_VERSION_1_1 {
        return None;
    }
    let instance = instance.raw_instance();
    #[expect(unsafe_code, reason = "ash marks every call of Vulkan so")]
    // SAFETY: the physical device is this instance's.
    let version = unsafe { instance.get_physical_device_properties(device) }.api_version;
    if version < vk::API_VERSION_1_1 {
        return None;
    }
    #[expect(unsafe_code, reason = "ash marks every call of Vulkan so")]
    // SAFETY: the physical device is this instance's.
    let extensions = unsafe { instance.enumerate_device_extension_properties(device) }.ok()?;
    let has_budget = extensions
        .iter()
        .any(|extension| extension.extension_name_as_c_str() == Ok(ext::memory_budget::NAME));
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceMemoryProperties2::default();
    if has_budget {
        properties = properties.push_next(&mut budget);
    }
    #[expect(unsafe_code, reason = "ash marks every call of Vulkan so")]
    // SAFETY: instance and device are of Vulkan 1.1 or later, and what is chained the device knows.
    unsafe {
        instance.get_physical_device_memory_properties2(device, &mut properties);
    }
    let heaps = properties.memory_properties;
    let mut free = 0;
    for (index, heap) in heaps.memory_heaps_as_slice().iter().enumerate() {
        if discrete && !heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL) {
            continue;
        }
        free += match budget.heap_budget.get(index) {
            Some(&most) if has_budget => {
                most.min(heap.size).saturating_sub(budget.heap_usage[index])
            }
            _ => heap.size,
        };
    }
    (free > 0).then_some(free)
}

/// Elsewhere no interface tells.
#[cfg(not(any(windows, target_os = "linux", target_os = "android")))]
pub(crate) fn free(_adapter: &wgpu::Adapter, _discrete: bool) -> Option<u64> {
    None
}
