//! What goes wrong comes back as an error, and never as a panic.

use longwave_contract::{Backend, BackendError, BufferDesc, DType};
use longwave_wgpu::{WgpuBackend, WgpuOptions, devices};

use super::{Case, Outcome, holds, open, same};

pub(super) const TRIALS: &[Case] = &[
    (
        "faults: devices are listed and chosen",
        devices_are_listed_and_chosen,
    ),
    ("faults: a lost device stays lost", a_lost_device_stays_lost),
    (
        "faults: a damaged file of kernels costs time only",
        a_damaged_file_of_kernels_costs_time_only,
    ),
];

fn a_damaged_file_of_kernels_costs_time_only() -> Outcome {
    let folder = std::env::temp_dir().join(format!("longwave-kernels-{}", std::process::id()));
    let used = || super::plans::embed(|options| options.kernels = Some(folder.clone()));
    used()?;
    let files = || std::fs::read_dir(&folder).into_iter().flatten().flatten();
    // Interfaces other than Vulkan keep nothing.
    let keeps = open(|_| ())?.caps().driver.starts_with("vulkan");
    same(files().count(), usize::from(keeps), "files of kernels")?;
    for file in files() {
        let kept = std::fs::read(file.path())?;
        holds(!kept.is_empty(), "the file is empty")?;
        for damaged in [&kept[..kept.len() / 2], b"no kernels", b""] {
            std::fs::write(file.path(), damaged)?;
            used()?;
            let repaired = std::fs::metadata(file.path())?.len();
            holds(repaired > damaged.len() as u64, "the file stayed damaged")?;
        }
    }
    let names = files().map(|file| file.file_name().into_string());
    let leftover = names.flatten().find(|name| name.ends_with(".part"));
    std::fs::remove_dir_all(&folder).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    same(leftover, None, "left behind")
}

fn devices_are_listed_and_chosen() -> Outcome {
    let found = devices();
    holds(
        !found.is_empty(),
        "no device is listed, and yet one was opened",
    )?;
    for (place, info) in found.iter().enumerate() {
        same(info.index, place, "number")?;
        holds(
            !info.name.is_empty() && info.binding_limit >= 1 << 20,
            format!("{info:?}"),
        )?;
        let named = WgpuBackend::open(&WgpuOptions {
            device: Some(place.to_string()),
            ..WgpuOptions::default()
        })?;
        same(named.caps().device.clone(), info.name.clone(), "device")?;
        same(named.caps().kind, info.kind, "kind")?;
        holds(named.caps().slab_limit.is_multiple_of(256), "slab limit")?;
    }
    let missing = WgpuBackend::open(&WgpuOptions {
        device: Some("no such device".into()),
        ..WgpuOptions::default()
    });
    match missing.map(|_| ()) {
        Err(error @ BackendError::NoDevice { .. }) => {
            let text = error.to_string();
            let listed = found.iter().all(|info| text.contains(&info.name));
            holds(listed && text.contains("no such device"), text)
        }
        other => Err(format!("{other:?}").into()),
    }
}

fn a_lost_device_stays_lost() -> Outcome {
    let backend = open(|options| options.lose_after = Some(1))?;
    let buffer = backend.alloc(&BufferDesc::of("test", DType::F32, 1, 1024))?;
    let mut bytes = [1; 4096];
    backend.read(buffer, 0, &mut bytes)?;
    let lost = |outcome: Result<(), BackendError>, what: &str| {
        let found = format!("{what}: {outcome:?}");
        holds(
            matches!(outcome, Err(BackendError::DeviceLost { .. })),
            found,
        )
    };
    lost(
        backend.read(buffer, 0, &mut bytes),
        "the submission that loses it",
    )?;
    lost(backend.read(buffer, 0, &mut bytes), "read")?;
    lost(backend.write(buffer, 0, &bytes), "write")?;
    lost(backend.copy((buffer, 0), (buffer, 64), 4), "copy")?;
    let desc = BufferDesc::of("more", DType::F32, 1, 1024);
    lost(backend.alloc(&desc).map(|_| ()), "alloc")?;
    backend.free(buffer);
    Ok(())
}
