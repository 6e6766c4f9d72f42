//! Buffers: what is written is read, in the order of the calls, and nothing else is touched.

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use longwave_contract::{Backend, BackendError, BufferDesc, BufferId, DType};

use super::{Case, refused, same};

pub(crate) const TRIALS: &[Case] = &[
    ("memory: unwritten bytes are zero", unwritten_bytes_are_zero),
    ("memory: what is written is read", what_is_written_is_read),
    (
        "memory: copies go between buffers and within one",
        copies_go_between_buffers_and_within_one,
    ),
    (
        "memory: a copy that overlaps is refused and moves nothing",
        overlapping_copies_are_refused,
    ),
    (
        "memory: small writes between large ones keep their order",
        writes_keep_their_order,
    ),
    (
        "memory: writes that are larger than any staging keep their order",
        large_writes_keep_their_order,
    ),
    (
        "memory: reading nothing between writes loses none",
        reading_nothing_loses_nothing,
    ),
    (
        "memory: ranges outside are refused",
        ranges_outside_are_refused,
    ),
    (
        "memory: more than any device has is refused",
        too_much_is_refused,
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

/// A buffer that is given back also where a trial fails, since all share the backend.
struct Held<'a> {
    backend: &'a dyn Backend,
    id: BufferId,
}

impl<'a> Held<'a> {
    fn new(backend: &'a dyn Backend, bytes: u64, row: u64) -> Result<Self, BackendError> {
        let desc = BufferDesc {
            label: "trial".into(),
            bytes,
            row,
        };
        let id = backend.alloc(&desc)?;
        Ok(Held { backend, id })
    }

    fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, BackendError> {
        let mut found = vec![0xEE; bytes];
        self.backend.read(self.id, offset, &mut found)?;
        Ok(found)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.backend.write(self.id, offset, bytes)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.backend.free(self.id);
    }
}

fn unwritten_bytes_are_zero(backend: &Arc<dyn Backend>) -> Result<()> {
    let buffer = Held::new(&**backend, 100_000, 16)?;
    same(
        buffer.read(0, 100_000)?,
        vec![0; 100_000],
        "before any write",
    )?;
    let other = Held::new(&**backend, 100_000, 16)?;
    other.write(400, &[7; 8])?;
    let mut expected = vec![0; 100_000];
    expected[400..408].fill(7);
    same(other.read(0, 100_000)?, expected, "around a write")
}

fn what_is_written_is_read(backend: &Arc<dyn Backend>) -> Result<()> {
    for bytes in [4, 64, 65_532, 65_536, 3_000_004] {
        let buffer = Held::new(&**backend, bytes as u64, 4)?;
        let written = pattern(bytes, bytes as u32);
        buffer.write(0, &written)?;
        same(buffer.read(0, bytes)?, written.clone(), "all")?;
        let from = bytes / 8 * 4;
        let part = buffer.read(from as u64, bytes - from)?;
        same(part, written[from..].to_vec(), "a part")?;
        buffer.write(0, &[])?;
        backend.read(buffer.id, bytes as u64, &mut [])?;
    }
    Ok(())
}

fn copies_go_between_buffers_and_within_one(backend: &Arc<dyn Backend>) -> Result<()> {
    let left = Held::new(&**backend, 48_000, 48)?;
    let right = Held::new(&**backend, 40_000, 80)?;
    let (a, mut b) = (pattern(48_000, 3), pattern(40_000, 4));
    left.write(0, &a)?;
    right.write(0, &b)?;
    backend.copy((left.id, 1004), (right.id, 8), 39_000)?;
    b[8..39_008].copy_from_slice(&a[1004..40_004]);
    same(right.read(0, 40_000)?, b.clone(), "between buffers")?;
    backend.copy((right.id, 100), (right.id, 20_100), 19_900)?;
    b.copy_within(100..20_000, 20_100);
    same(right.read(0, 40_000)?, b.clone(), "upwards within a buffer")?;
    backend.copy((right.id, 20_000), (right.id, 4), 16)?;
    b.copy_within(20_000..20_016, 4);
    same(right.read(0, 40_000)?, b, "downwards within a buffer")?;

    let large = Held::new(&**backend, 48 << 20, 4096)?;
    let half = pattern(24 << 20, 5);
    large.write(0, &half)?;
    backend.copy((large.id, 0), (large.id, 24 << 20), 24 << 20)?;
    ensure!(large.read(24 << 20, 24 << 20)? == half, "24 MiB");
    same(
        backend.copy((large.id, 0), (large.id, 0), 0),
        Ok(()),
        "nothing",
    )
}

fn overlapping_copies_are_refused(backend: &Arc<dyn Backend>) -> Result<()> {
    let buffer = Held::new(&**backend, 4096, 16)?;
    let mut content = pattern(4096, 8);
    buffer.write(0, &content)?;
    let copy = |from, to, bytes| backend.copy((buffer.id, from), (buffer.id, to), bytes);
    refused(copy(0, 1020, 1024), "upwards, by a word")?;
    refused(copy(1020, 0, 1024), "downwards, by a word")?;
    refused(copy(0, 0, 1024), "onto itself")?;
    refused(copy(1000, 1200, 2000), "in the middle")?;
    same(buffer.read(0, 4096)?, content.clone(), "the content")?;
    // Ranges that touch do not overlap.
    copy(0, 1024, 1024)?;
    content.copy_within(0..1024, 1024);
    same(buffer.read(0, 4096)?, content, "after a copy beside")
}

fn writes_keep_their_order(backend: &Arc<dyn Backend>) -> Result<()> {
    let buffer = Held::new(&**backend, 1 << 20, 16)?;
    let other = Held::new(&**backend, 1 << 20, 16)?;
    let mut expected = vec![0; 1 << 20];
    for round in 0..20u32 {
        let large = pattern(1 << 20, round);
        buffer.write(0, &large)?;
        let small = pattern(4096, round + 100);
        buffer.write(u64::from(round) * 4096, &small)?;
        expected.copy_from_slice(&large);
        let at = round as usize * 4096;
        expected[at..at + 4096].copy_from_slice(&small);
        backend.copy((buffer.id, 0), (other.id, 0), 1 << 20)?;
        buffer.write(0, &[0xAA; 64])?;
    }
    let kept = other.read(0, 1 << 20)? == expected;
    ensure!(kept, "an earlier write came later");
    Ok(())
}

fn large_writes_keep_their_order(backend: &Arc<dyn Backend>) -> Result<()> {
    // No multiple of any staging's size, and from an offset.
    let bytes = (20 << 20) + 12;
    let buffer = Held::new(&**backend, (bytes + 4) as u64, 4)?;
    let copies = Held::new(&**backend, 3 * bytes as u64, 4)?;
    for round in 0..3u32 {
        buffer.write(4, &pattern(bytes, round))?;
        let place = u64::from(round) * bytes as u64;
        backend.copy((buffer.id, 4), (copies.id, place), bytes as u64)?;
    }
    for round in 0..3u32 {
        let found = copies.read(u64::from(round) * bytes as u64, bytes)?;
        ensure!(found == pattern(bytes, round), "what write {round} left");
    }
    Ok(())
}

fn reading_nothing_loses_nothing(backend: &Arc<dyn Backend>) -> Result<()> {
    let large = Held::new(&**backend, 64 << 20, 4096)?;
    let buffer = Held::new(&**backend, 8192, 4096)?;
    let (first, second) = (pattern(4096, 20), pattern(4096, 21));
    // The device is busy for a while, so that it takes the first write after the second was asked for.
    for _ in 0..8 {
        backend.copy((large.id, 0), (large.id, 32 << 20), 32 << 20)?;
    }
    buffer.write(0, &first)?;
    backend.read(buffer.id, 0, &mut [])?;
    buffer.write(4096, &second)?;
    same(buffer.read(0, 4096)?, first, "the first write")?;
    same(buffer.read(4096, 4096)?, second, "the second write")
}

fn ranges_outside_are_refused(backend: &Arc<dyn Backend>) -> Result<()> {
    let buffer = Held::new(&**backend, 1000, 4)?;
    let write = |offset, bytes: &[u8]| backend.write(buffer.id, offset, bytes);
    refused(write(996, &[0; 8]), "write past the end")?;
    refused(write(1004, &[]), "write beyond the end")?;
    refused(write(u64::MAX - 3, &[0; 8]), "write past all addresses")?;
    refused(write(2, &[0; 4]), "write at half a word")?;
    refused(write(0, &[0; 6]), "write of half a word")?;
    let read = |offset, bytes: &mut [u8]| backend.read(buffer.id, offset, bytes);
    refused(read(996, &mut [0; 8]), "read past the end")?;
    refused(read(u64::MAX - 3, &mut [0; 8]), "read past all addresses")?;
    refused(read(1, &mut [0; 4]), "read at a quarter of a word")?;
    let copy = |from, to, bytes| backend.copy((buffer.id, from), (buffer.id, to), bytes);
    refused(copy(0, 500, 504), "copy past the end")?;
    refused(copy(0, u64::MAX - 3, 8), "copy past all addresses")?;
    refused(copy(0, 502, 100), "copy to half a word")?;
    let nowhere = BufferId(u32::MAX);
    refused(
        backend.copy((nowhere, 0), (buffer.id, 0), 4),
        "copy from nowhere",
    )?;
    refused(
        backend.copy((buffer.id, 0), (nowhere, 0), 4),
        "copy to nowhere",
    )?;
    same(write(996, &[1; 4]), Ok(()), "the last word")
}

fn too_much_is_refused(backend: &Arc<dyn Backend>) -> Result<()> {
    let (before, bytes) = (backend.allocated(), 1u64 << 46);
    let outcome = backend.alloc(&BufferDesc {
        label: "too much".into(),
        bytes,
        row: 4096,
    });
    let expected = BackendError::OutOfMemory {
        backend: backend.caps().backend,
        label: "too much".into(),
        bytes,
    };
    same(outcome, Err(expected), "64 TiB")?;
    same(backend.allocated(), before, "allocated")?;
    // The backend goes on.
    let buffer = Held::new(&**backend, 4096, 16)?;
    same(buffer.read(0, 4096)?, vec![0; 4096], "a buffer after that")
}

fn freed_buffers_are_gone(backend: &Arc<dyn Backend>) -> Result<()> {
    let before = backend.allocated();
    let buffer = Held::new(&**backend, 4096, 16)?;
    same(backend.allocated(), before + 4096, "allocated")?;
    backend.free(buffer.id);
    backend.free(buffer.id);
    same(backend.allocated(), before, "given back")?;
    refused(buffer.write(0, &[0; 4]), "a write")?;
    refused(buffer.read(0, 4), "a read")?;
    let next = Held::new(&**backend, 4096, 16)?;
    ensure!(next.id != buffer.id, "an id was used again");
    refused(
        backend.copy((buffer.id, 0), (next.id, 0), 4),
        "a copy from it",
    )?;
    refused(
        backend.copy((next.id, 0), (buffer.id, 0), 4),
        "a copy to it",
    )?;
    same(next.read(0, 4096)?, vec![0; 4096], "new memory")
}

fn many_buffers_leave_nothing_behind(backend: &Arc<dyn Backend>) -> Result<()> {
    let desc = BufferDesc::of("many", DType::F32, 1024, 1024);
    let content = pattern(desc.bytes as usize, 6);
    let mut settled = (0, 0);
    for round in 0..240 {
        let buffer = Held::new(&**backend, desc.bytes, desc.row)?;
        buffer.write(0, &content)?;
        if round % 40 == 0 {
            let found = buffer.read(4096, 4096)?;
            ensure!(found == content[4096..8192], "content of round {round}");
        }
        drop(buffer);
        if round == 40 {
            settled = (backend.allocated(), resident());
        }
    }
    same(backend.allocated(), settled.0, "allocated")?;
    // 200 rounds of 4 MiB; a backend that kept them would hold 800 MiB more. This sees memory of the host alone: that of software and
    // integrated devices, and what the driver keeps for others, on systems that tell.
    let grown = resident().saturating_sub(settled.1);
    ensure!(grown < 128 << 20, "the process grew by {grown} bytes");
    Ok(())
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

fn threads_take_turns(backend: &Arc<dyn Backend>) -> Result<()> {
    let work = |seed: u32| {
        for round in 0..10 {
            let buffer = Held::new(&**backend, 200_000, 16)?;
            let written = pattern(200_000, seed + round);
            buffer.write(0, &written)?;
            same(buffer.read(0, 200_000)?, written, "content")?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|i| scope.spawn(move || work(i * 1000)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        })
    })
}
