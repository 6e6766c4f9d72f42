//! What the host says about itself.

use longwave_contract::{Caps, DeviceKind};

use crate::error::NAME;

/// The capabilities of this host with `threads` threads.
pub(crate) fn caps(threads: usize) -> Caps {
    Caps {
        backend: NAME,
        device: processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        driver: format!("{threads} threads, {}", instructions()),
        kind: DeviceKind::Cpu,
        memory: available(),
        slab_limit: u64::MAX,
        subgroup: None,
        f16: false,
        workgroup_memory: 0,
        workgroup_threads: 1,
        workgroups_per_axis: u32::MAX,
        cooperative_matrix: Vec::new(),
        half_products: false,
        stored_heads: &[32, 64, 128, 256, 512],
        stored_norms: true,
        timestamps: false,
    }
}

/// Bytes that programs may still allocate, where the host says so.
pub(crate) fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    Some(name.trim().to_owned())
}

/// The vector instructions that `pulp` dispatches to, by the width of what it reports.
fn instructions() -> &'static str {
    struct Lanes;
    impl pulp::WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    match pulp::Arch::new().dispatch(Lanes) {
        1 => "scalar",
        2..=4 => "128-bit vectors",
        5..=8 => "256-bit vectors",
        _ => "512-bit vectors",
    }
}
