//! Buffers in slabs, and the staging ring: what is written is read, wherever it was cut. What every backend promises, `tests/conformance` tests.

use longwave_contract::{Backend, BackendError, BufferDesc, BufferId};
use longwave_wgpu::WgpuBackend;

use super::{Case, Outcome, holds, open, same};

pub(super) const TRIALS: &[Case] = &[
    (
        "memory: the staging ring goes round",
        the_staging_ring_goes_round,
    ),
    (
        "memory: cut buffers read and write as whole ones",
        cut_buffers_read_and_write_as_whole_ones,
    ),
    ("memory: copies go across slabs", copies_go_across_slabs),
];

/// Bytes that differ from place to place and from seed to seed.
fn pattern(bytes: usize, seed: u32) -> Vec<u8> {
    let words =
        (0..bytes.div_ceil(4) as u32).map(|i| (i ^ seed).wrapping_mul(0x9E37_79B9) ^ (i >> 3));
    words.flat_map(u32::to_le_bytes).take(bytes).collect()
}

fn alloc(backend: &WgpuBackend, bytes: u64, row: u64) -> Result<BufferId, BackendError> {
    backend.alloc(&BufferDesc {
        label: "test".into(),
        bytes,
        row,
    })
}

fn read(
    backend: &WgpuBackend,
    buffer: BufferId,
    offset: u64,
    bytes: usize,
) -> Result<Vec<u8>, BackendError> {
    let mut found = vec![0xEE; bytes];
    backend.read(buffer, offset, &mut found)?;
    Ok(found)
}

fn the_staging_ring_goes_round() -> Outcome {
    let backend = open(|_| ())?;
    let bytes = 100 << 20;
    let buffer = alloc(&backend, bytes as u64, 4096)?;
    let written = pattern(bytes, 1);
    backend.write(buffer, 0, &written)?;
    holds(
        read(&backend, buffer, 0, bytes)? == written,
        "100 MiB came back otherwise",
    )?;
    let beside = backend.allocated() - bytes as u64;
    holds(beside <= 80 << 20, format!("{beside} bytes of staging"))
}

fn cut_buffers_read_and_write_as_whole_ones() -> Outcome {
    let backend = open(|options| options.slab_limit = Some(4096))?;
    same(backend.caps().slab_limit, 4096, "limit")?;
    // Slabs of 85 rows.
    let (row, rows) = (48, 1000);
    let bytes = (row * rows) as usize;
    let buffer = alloc(&backend, bytes as u64, row)?;
    let mut expected = pattern(bytes, 2);
    backend.write(buffer, 0, &expected)?;
    same(read(&backend, buffer, 0, bytes)?, expected.clone(), "all")?;
    for (offset, length) in [
        (4076, 8),
        (4080, 4),
        (0, 4080),
        (4000, 30_000),
        (bytes - 4, 4),
    ] {
        let written = pattern(length, offset as u32);
        backend.write(buffer, offset as u64, &written)?;
        expected[offset..offset + length].copy_from_slice(&written);
        same(
            read(&backend, buffer, offset as u64, length)?,
            written,
            "a part",
        )?;
    }
    same(
        read(&backend, buffer, 0, bytes)?,
        expected,
        "all, afterwards",
    )?;
    let refused = alloc(&backend, 100_000, 4112);
    let too_large = matches!(
        &refused,
        Err(BackendError::RowTooLarge {
            row: 4112,
            limit: 4096,
            ..
        })
    );
    holds(too_large, format!("{refused:?}"))
}

fn copies_go_across_slabs() -> Outcome {
    let backend = open(|options| options.slab_limit = Some(4096))?;
    let (left, right) = (alloc(&backend, 48_000, 48)?, alloc(&backend, 40_000, 80)?);
    let (a, mut b) = (pattern(48_000, 3), pattern(40_000, 4));
    backend.write(left, 0, &a)?;
    backend.write(right, 0, &b)?;
    backend.copy((left, 1004), (right, 8), 39_000)?;
    b[8..39_008].copy_from_slice(&a[1004..40_004]);
    same(
        read(&backend, right, 0, 40_000)?,
        b.clone(),
        "between buffers",
    )?;
    backend.copy((right, 100), (right, 20_100), 19_900)?;
    b.copy_within(100..20_000, 20_100);
    same(
        read(&backend, right, 0, 40_000)?,
        b.clone(),
        "upwards within a buffer",
    )?;
    backend.copy((right, 20_000), (right, 4), 16)?;
    b.copy_within(20_000..20_016, 4);
    same(
        read(&backend, right, 0, 40_000)?,
        b,
        "downwards within a buffer",
    )
}
