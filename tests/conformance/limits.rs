//! Memory that runs out, at a limit that is set: an error that says what there was no room for, and nothing lost beside.

use std::sync::Arc;

use anyhow::{Error, Result, ensure};
use libtest_mimic::Trial;
use longwave_contract::{Allocation, Backend, BackendError, BufferDesc, DType, Op, PlanId, Tensor};
use longwave_tests::adapter::{self, Subject};
use longwave_tests::trial;

use super::bench::{Bench, Logits};
use super::same;

/// Opens a backend that allocates so many bytes at most.
type Open = fn(u64) -> Subject;

/// A trial's name and what it does.
type Case = (&'static str, fn(Open) -> Result<()>);

const TRIALS: [Case; 2] = [
    (
        "limits: no memory for a buffer is an error",
        no_memory_for_a_buffer,
    ),
    (
        "limits: no memory for scratch is an error",
        no_memory_for_scratch,
    ),
];

pub(crate) fn trials() -> Vec<Trial> {
    let cuda: Open = |limit| adapter::cuda_with(|options| options.memory_limit = Some(limit));
    let wgpu: Open = |limit| adapter::wgpu_with(|options| options.memory_limit = Some(limit));
    let without = "it has no limit but the host's memory";
    let subjects = [
        ("cpu", Err(without.to_owned())),
        ("cuda", adapter::cuda().map(|_| cuda)),
        ("wgpu", adapter::wgpu().map(|_| wgpu)),
    ];
    let all = subjects.into_iter().flat_map(|(backend, open)| {
        TRIALS.map(|(name, test)| trial::with(format!("{name} on {backend}"), open.clone(), test))
    });
    all.collect()
}

fn no_memory_for_a_buffer(open: Open) -> Result<()> {
    let backend = open(1 << 20).map_err(Error::msg)?;
    let half = BufferDesc::of("half", DType::F32, 128, 1024);
    let first = backend.alloc(&half)?;
    let second = backend.alloc(&half)?;
    let full = backend.allocated();
    let expected = BackendError::OutOfMemory {
        backend: backend.caps().backend,
        label: "half".into(),
        bytes: 1 << 19,
    };
    same(backend.alloc(&half), Err(expected), "a third half")?;
    same(backend.allocated(), full, "allocated after it")?;
    // Reading and writing still work, and so does memory that was given back.
    backend.write(first, 0, &[5; 1 << 19])?;
    backend.free(second);
    let second = backend.alloc(&half)?;
    backend.copy((first, 0), (second, 0), 1 << 19)?;
    let mut bytes = [0; 4];
    backend.read(second, (1 << 19) - 4, &mut bytes)?;
    same(bytes, [5; 4], "content")?;
    backend.free(first);
    backend.free(second);
    Ok(())
}

/// Two plans, of which the second needs more working memory than the first.
struct Scene {
    bench: Bench,
    /// What is allocated without plans.
    bare: u64,
    small: Logits,
    first: PlanId,
    large: Logits,
    second: Result<PlanId, BackendError>,
    /// Bytes of working memory of both, where there was room.
    working: u64,
}

impl Scene {
    fn new(backend: &Arc<dyn Backend>) -> Result<Self> {
        let mut bench = Bench::new(backend);
        let small = Logits::new(&mut bench, 2)?;
        let bare = backend.allocated();
        let first = bench.prepare(&[small.op.into()])?;
        let one = backend.allocated() - bare;
        small.finish(&bench, first)?;
        let large = Logits::new(&mut bench, 80)?;
        let before = backend.allocated();
        let second = bench.prepare(&[large.op.into()]);
        let other = backend.allocated().saturating_sub(before);
        ensure!(other > 0 || second.is_err(), "no more working memory");
        Ok(Scene {
            bench,
            bare,
            small,
            first,
            large,
            second,
            working: one + other,
        })
    }

    /// Bytes of all operands. A backend may have memory for reads and writes beside them, to which no limit applies.
    fn operands(&self, backend: &Arc<dyn Backend>) -> Result<u64> {
        let ops = [Op::from(self.small.op), Op::from(self.large.op)];
        let operands = ops.iter().flat_map(|op| op.operands());
        let held = operands.map(|operand| {
            let Tensor {
                dtype, rows, cols, ..
            } = operand.tensor;
            Allocation::new(backend, &BufferDesc::of("operand", dtype, rows, cols))
        });
        let held = held.collect::<Result<Vec<_>, _>>()?;
        let bytes = backend.allocated();
        drop(held);
        Ok(bytes)
    }
}

fn no_memory_for_scratch(open: Open) -> Result<()> {
    let fresh = |limit| open(limit).map_err(Error::msg);
    let scene = Scene::new(&fresh(u64::MAX)?)?;
    let enough = scene.operands(&fresh(u64::MAX)?)? + scene.working;
    scene.large.finish(&scene.bench, scene.second?)?;

    let backend = fresh(enough - 1)?;
    let Scene {
        mut bench,
        bare,
        small,
        first,
        large,
        second,
        ..
    } = Scene::new(&backend)?;
    let noticed = matches!(second, Err(BackendError::OutOfMemory { .. }));
    ensure!(noticed, "{second:?} of less than {enough} bytes");
    // What was there before may have to be made again, for which there is room once the large operands are gone: the old plan does.
    large.free(&mut bench);
    small.finish(&bench, first)?;
    small.finish(&bench, first)?;
    bench.release(first);
    // What is kept for reads came after.
    let left = backend.allocated() - bare;
    ensure!(left <= 64 << 10, "{left} bytes are left");
    let plan = bench.prepare(&[small.op.into()])?;
    small.finish(&bench, plan)
}
