//! Buffers: what is written is read, wherever they were cut.

use longwave_contract::{Backend, BackendError, BufferDesc, BufferId, DType};
use longwave_wgpu::WgpuBackend;

use super::{Case, Outcome, holds, open, same};

pub(super) const TRIALS: &[Case] = &[
    ("memory: unwritten bytes are zero", unwritten_bytes_are_zero),
    ("memory: what is written is read", what_is_written_is_read),
    (
        "memory: the staging ring goes round",
        the_staging_ring_goes_round,
    ),
    (
        "memory: cut buffers read and write as whole ones",
        cut_buffers_read_and_write_as_whole_ones,
    ),
    (
        "memory: copies go across slabs and within a buffer",
        copies_go_across_slabs,
    ),
    (
        "memory: small writes between large ones keep their order",
        writes_keep_their_order,
    ),
    (
        "memory: ranges outside are refused",
        ranges_outside_are_refused,
    ),
    ("memory: freed buffers are gone", freed_buffers_are_gone),
    (
        "memory: many buffers leave nothing behind",
        many_buffers_leave_nothing_behind,
    ),
    ("memory: threads take turns", threads_take_turns),
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

fn unwritten_bytes_are_zero() -> Outcome {
    let backend = open(|_| ())?;
    let buffer = alloc(&backend, 100_000, 16)?;
    same(
        read(&backend, buffer, 0, 100_000)?,
        vec![0; 100_000],
        "before any write",
    )?;
    let other = alloc(&backend, 100_000, 16)?;
    backend.write(other, 400, &[7; 8])?;
    let mut expected = vec![0; 100_000];
    expected[400..408].fill(7);
    same(
        read(&backend, other, 0, 100_000)?,
        expected,
        "around a write",
    )
}

fn what_is_written_is_read() -> Outcome {
    let backend = open(|_| ())?;
    for bytes in [4, 64, 65_532, 65_536, 3_000_004] {
        let buffer = alloc(&backend, bytes as u64, 4)?;
        let written = pattern(bytes, bytes as u32);
        backend.write(buffer, 0, &written)?;
        same(read(&backend, buffer, 0, bytes)?, written.clone(), "all")?;
        let (from, to) = (bytes / 8 * 4, bytes);
        same(
            read(&backend, buffer, from as u64, to - from)?,
            written[from..to].to_vec(),
            "a part",
        )?;
        backend.write(buffer, 0, &[])?;
        backend.read(buffer, bytes as u64, &mut [])?;
    }
    Ok(())
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
    )?;

    let backend = open(|_| ())?;
    let large = alloc(&backend, 48 << 20, 4096)?;
    let half = pattern(24 << 20, 5);
    backend.write(large, 0, &half)?;
    backend.copy((large, 0), (large, 24 << 20), 24 << 20)?;
    holds(
        read(&backend, large, 24 << 20, 24 << 20)? == half,
        "24 MiB within one slab",
    )?;
    let same_place = backend.copy((large, 0), (large, 0), 0);
    same(same_place, Ok(()), "nothing")
}

fn writes_keep_their_order() -> Outcome {
    let backend = open(|_| ())?;
    let (buffer, other) = (alloc(&backend, 1 << 20, 16)?, alloc(&backend, 1 << 20, 16)?);
    let mut expected = vec![0; 1 << 20];
    for round in 0..20u32 {
        let large = pattern(1 << 20, round);
        backend.write(buffer, 0, &large)?;
        let small = pattern(4096, round + 100);
        backend.write(buffer, u64::from(round) * 4096, &small)?;
        expected.copy_from_slice(&large);
        let at = round as usize * 4096;
        expected[at..at + 4096].copy_from_slice(&small);
        backend.copy((buffer, 0), (other, 0), 1 << 20)?;
        backend.write(buffer, 0, &[0xAA; 64])?;
    }
    holds(
        read(&backend, other, 0, 1 << 20)? == expected,
        "an earlier write came later",
    )
}

fn ranges_outside_are_refused() -> Outcome {
    let backend = open(|_| ())?;
    let buffer = alloc(&backend, 1000, 4)?;
    let refused = |outcome: Result<(), BackendError>, what: &str| {
        let found = format!("{what}: {outcome:?}");
        holds(
            matches!(outcome, Err(BackendError::BadHandle { .. })),
            found,
        )
    };
    refused(backend.write(buffer, 996, &[0; 8]), "write past the end")?;
    refused(backend.write(buffer, 1004, &[]), "write beyond the end")?;
    refused(
        backend.write(buffer, u64::MAX - 3, &[0; 8]),
        "write past all addresses",
    )?;
    refused(backend.write(buffer, 2, &[0; 4]), "write at half a word")?;
    refused(backend.write(buffer, 0, &[0; 6]), "write of half a word")?;
    refused(backend.read(buffer, 996, &mut [0; 8]), "read past the end")?;
    refused(
        backend.read(buffer, u64::MAX - 3, &mut [0; 8]),
        "read past all addresses",
    )?;
    refused(
        backend.read(buffer, 1, &mut [0; 4]),
        "read at a quarter of a word",
    )?;
    refused(
        backend.copy((buffer, 0), (buffer, 500), 504),
        "copy past the end",
    )?;
    refused(
        backend.copy((buffer, 0), (buffer, 96), 100),
        "copy that overlaps",
    )?;
    refused(
        backend.copy((buffer, 0), (buffer, 502), 100),
        "copy to half a word",
    )?;
    refused(
        backend.copy((BufferId(99), 0), (buffer, 0), 4),
        "copy from nowhere",
    )?;
    same(backend.write(buffer, 996, &[1; 4]), Ok(()), "the last word")
}

fn freed_buffers_are_gone() -> Outcome {
    let backend = open(|_| ())?;
    let before = backend.allocated();
    let buffer = alloc(&backend, 4096, 16)?;
    same(backend.allocated(), before + 4096, "allocated")?;
    backend.free(buffer);
    backend.free(buffer);
    same(backend.allocated(), before, "given back")?;
    let gone = |outcome: Result<(), BackendError>| {
        let found = format!("{outcome:?}");
        holds(
            matches!(outcome, Err(BackendError::BadHandle { .. })),
            found,
        )
    };
    gone(backend.write(buffer, 0, &[0; 4]))?;
    gone(backend.read(buffer, 0, &mut [0; 4]))?;
    let next = alloc(&backend, 4096, 16)?;
    holds(next != buffer, "an id was used again")?;
    same(read(&backend, next, 0, 4096)?, vec![0; 4096], "new memory")
}

fn many_buffers_leave_nothing_behind() -> Outcome {
    let backend = open(|_| ())?;
    let desc = BufferDesc::of("many", DType::F32, 1024, 1024);
    let content = pattern(desc.bytes as usize, 6);
    let mut settled = (0, 0);
    for round in 0..240 {
        let buffer = backend.alloc(&desc)?;
        backend.write(buffer, 0, &content)?;
        if round % 40 == 0 {
            holds(
                read(&backend, buffer, 4096, 4096)? == content[4096..8192],
                "content",
            )?;
        }
        backend.free(buffer);
        if round == 40 {
            settled = (backend.allocated(), resident());
        }
    }
    same(backend.allocated(), settled.0, "allocated")?;
    // 200 rounds of 4 MiB; a backend that kept them would hold 800 MiB more. This sees memory of the host alone: that of software and
    // integrated devices, and what the driver keeps for others, on systems that tell.
    let grown = resident().saturating_sub(settled.1);
    holds(
        grown < 128 << 20,
        format!("the process grew by {grown} bytes"),
    )
}

/// Bytes of this process in memory; 0 where the system does not say.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split_whitespace().nth(1);
    resident
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        * 4096
}

fn threads_take_turns() -> Outcome {
    let backend = open(|_| ())?;
    std::thread::scope(|scope| {
        let work = |seed: u32| {
            for round in 0..10 {
                let buffer = alloc(&backend, 200_000, 16)?;
                let written = pattern(200_000, seed + round);
                backend.write(buffer, 0, &written)?;
                same(read(&backend, buffer, 0, 200_000)?, written, "content")?;
                backend.free(buffer);
            }
            Ok(())
        };
        let threads: Vec<_> = (0..4)
            .map(|i| scope.spawn(move || work(i * 1000)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a thread panicked".into()))
        })
    })
}
