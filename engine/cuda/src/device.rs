//! Devices, the choice of one, and what it can do.

use std::sync::Arc;

use longwave_contract::{BackendError, Caps, CooperativeMatrix, DeviceKind};

use crate::BACKEND;
use crate::compiler::Compiler;
use crate::driver::{self, Facts, Gpu};
use crate::launch::stored_heads;

/// The least compute capability, times ten: kernels copy to shared memory in the background and multiply f16 matrices in sizes that came with it.
const LEAST: u32 = 80;
/// Blocks along the second and third axis of a grid.
const BLOCKS: u32 = 65_535;

/// A device of the driver.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Its number, as the driver counts.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The driver, by the CUDA version that it serves.
    pub driver: String,
    /// Compute capability, times ten.
    pub capability: u32,
    /// Whether it shares the host's memory.
    pub integrated: bool,
    /// Bytes of shared memory that a block may have.
    pub shared_memory: u32,
    /// Why it cannot be used, where it cannot.
    pub unusable: Option<String>,
}

/// All devices, in the order of their numbers. None can be used where kernels cannot be compiled.
///
/// # Errors
/// Why there are none: the driver's library is missing, or what it says.
pub fn devices() -> Result<Vec<DeviceInfo>, String> {
    let found = found()?.into_iter();
    let missing = Compiler::open().err();
    Ok(found
        .map(|(info, _)| DeviceInfo {
            unusable: info.unusable.or_else(|| missing.clone()),
            ..info
        })
        .collect())
}

/// Bytes that are free on a device, where that can be known.
pub fn free_memory(index: usize) -> Option<u64> {
    let (_, facts) = found().ok()?.into_iter().nth(index)?;
    Gpu::open(index, &facts).ok()?.free_memory()
}

fn found() -> Result<Vec<(DeviceInfo, Facts)>, String> {
    let each = |index| {
        let facts = driver::facts(index).map_err(|error| error.to_string())?;
        Ok((describe(index, &facts), facts))
    };
    (0..count()?).map(each).collect()
}

fn count() -> Result<usize, String> {
    if !driver::present() {
        return Err("libcuda not found".into());
    }
    match driver::count() {
        Ok(0) => Err("the driver has no device".into()),
        other => other,
    }
}

fn describe(index: usize, facts: &Facts) -> DeviceInfo {
    let (major, minor) = (facts.driver / 1000, facts.driver % 1000 / 10);
    let old = (facts.capability < LEAST).then(|| {
        let (has, needs) = (facts.capability, LEAST);
        format!(
            "compute capability {}.{}, and {}.{} is needed",
            has / 10,
            has % 10,
            needs / 10,
            needs % 10
        )
    });
    DeviceInfo {
        index,
        name: facts.name.clone(),
        driver: format!("CUDA {major}.{minor}"),
        capability: facts.capability,
        integrated: facts.integrated,
        shared_memory: facts.shared_memory,
        unusable: old,
    }
}

/// The device that `wanted` names: a number, or a part of a name in any case; the first that can be used where none is named.
///
/// # Errors
/// What there is instead, or why it cannot be used.
pub fn choose<'a>(found: &'a [DeviceInfo], wanted: Option<&str>) -> Result<&'a DeviceInfo, String> {
    let fits = |info: &&DeviceInfo| match wanted.map(str::trim) {
        None => info.unusable.is_none(),
        Some(text) => match text.parse::<usize>() {
            Ok(number) => info.index == number,
            Err(_) => info.name.to_lowercase().contains(&text.to_lowercase()),
        },
    };
    let list = || {
        let named = found
            .iter()
            .map(|info| format!("{}: {}", info.index, info.name));
        named.collect::<Vec<_>>().join(", ")
    };
    let info = found.iter().find(fits).ok_or_else(|| match wanted {
        Some(wanted) => format!("no device is `{wanted}`; there are {}", list()),
        None => {
            let reasons = found.iter().filter_map(|info| info.unusable.as_deref());
            let reasons: Vec<&str> = reasons.collect();
            format!(
                "no device can be used of {} ({})",
                list(),
                reasons.join(", ")
            )
        }
    })?;
    match &info.unusable {
        Some(why) => Err(format!("{}: {why}", info.name)),
        None => Ok(info),
    }
}

/// Opens a device.
///
/// # Errors
/// [`BackendError::NoDevice`] when none fits, and what the driver says.
pub(crate) fn open(wanted: Option<&str>) -> Result<(Arc<Gpu>, Caps), BackendError> {
    let none = |why: String| BackendError::NoDevice {
        backend: BACKEND,
        why,
    };
    let found = found().map_err(none)?;
    let infos: Vec<DeviceInfo> = found.iter().map(|(info, _)| info.clone()).collect();
    let info = choose(&infos, wanted).map_err(none)?;
    let facts = &found[info.index].1;
    let gpu = Gpu::open(info.index, facts)?;
    let caps = Caps {
        backend: BACKEND,
        device: info.name.clone(),
        driver: info.driver.clone(),
        kind: match info.integrated {
            true => DeviceKind::Integrated,
            false => DeviceKind::Discrete,
        },
        memory: gpu.free_memory(),
        // A buffer is one range of addresses, however large.
        slab_limit: u64::MAX,
        subgroup: Some((32, 32)),
        f16: true,
        workgroup_memory: info.shared_memory,
        workgroup_threads: 1024,
        workgroups_per_axis: BLOCKS,
        cooperative_matrix: vec![CooperativeMatrix {
            m: 16,
            n: 8,
            k: 16,
            f32_accumulator: true,
        }],
        half_products: true,
        stored_heads: stored_heads(info.shared_memory),
        stored_norms: true,
        timestamps: true,
    };
    Ok((Arc::new(gpu), caps))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(index: usize, name: &str, unusable: Option<&str>) -> DeviceInfo {
        DeviceInfo {
            index,
            name: name.into(),
            driver: "CUDA 13.0".into(),
            capability: 90,
            integrated: false,
            shared_memory: 0,
            unusable: unusable.map(Into::into),
        }
    }

    #[test]
    fn a_device_is_chosen_by_number_by_name_or_as_the_first_usable() {
        let found = [
            info(0, "Old", Some("too old")),
            info(1, "NVIDIA H100", None),
        ];
        assert_eq!(choose(&found, None), Ok(&found[1]));
        assert_eq!(choose(&found, Some("1")), Ok(&found[1]));
        assert_eq!(choose(&found, Some("h100")), Ok(&found[1]));
        assert_eq!(choose(&found, Some("0")), Err("Old: too old".into()));
        let error = choose(&found, Some("radeon")).expect_err("there is none");
        assert!(error.contains("1: NVIDIA H100"), "{error}");
        let error = choose(&found[..1], None).expect_err("it is too old");
        assert!(error.contains("0: Old"), "{error}");
    }
}
