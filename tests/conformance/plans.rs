//! Plans: the numbers are right at every run, whatever happened in between, and plans notice what is gone.

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use longwave_contract::kv::RowDesc;
use longwave_contract::op::{Embed, LinearAdd, NormLinear};
use longwave_contract::{Backend, BackendError, Op, Tensor, Ticket};

use super::bench::{Bench, Logits, Sum, exact, halves, product, values};
use super::{Case, refused, same};

pub(crate) const TRIALS: &[Case] = &[
    ("plans: embed", embed),
    ("plans: linear_add", linear_add),
    ("plans: an empty recording runs", an_empty_recording_runs),
    ("plans: runs again and again add up", runs_add_up),
    (
        "plans: reads see the runs before them, and writes those after",
        reads_and_writes_keep_their_place,
    ),
    (
        "plans: large writes between runs keep their order",
        large_writes_keep_their_place,
    ),
    ("plans: old tickets can be waited for", old_tickets),
    (
        "plans: a profile has each op's time, and is a run",
        profiles_time_each_op,
    ),
    (
        "plans: scratch memory is shared and grows",
        scratch_memory_grows,
    ),
    (
        "plans: plans take turns while scratch memory grows",
        plans_take_turns,
    ),
    (
        "plans: freed buffers and released plans are noticed",
        gone_things_are_noticed,
    ),
    (
        "plans: a buffer in the place of a freed one is another",
        a_new_buffer_is_another,
    ),
    (
        "plans: operands outside of their buffer are refused",
        operands_outside_are_refused,
    ),
    ("plans: threads share a backend", threads_share_a_backend),
];

/// Rows that name these tokens.
fn tokens(bench: &mut Bench, tokens: &[u32]) -> Result<Tensor> {
    let row = |&token: &u32| RowDesc {
        token,
        ..RowDesc::default()
    };
    let rows: Vec<RowDesc> = tokens.iter().map(row).collect();
    bench.rig().rows(&rows)
}

/// Rows of a table, zeros for a token beyond it, and what was there before for a row that does not count.
pub(crate) fn embed(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let (table, before) = (values(150, 64, 1), values(6, 64, 2));
    let wanted = [149, 0, 31, 32, 150, 77];
    let op = Embed {
        table: bench.f16(&table)?,
        rows: tokens(&mut bench, &wanted)?,
        count: bench.rig().count(5)?,
        out: bench.f32(&before)?,
    };
    let plan = bench.prepare(&[op.into()])?;
    bench.finish(plan)?;
    let found = bench.read(op.out)?;
    for (row, token) in wanted.iter().enumerate() {
        let known = table.get(*token as usize).cloned();
        let expected = match row {
            5 => before[5].clone(),
            _ => known.unwrap_or_else(|| vec![0.0; 64]),
        };
        same(found[row].clone(), expected, &format!("row {row}"))?;
    }
    let kernels = backend.kernels(plan);
    let named = kernels.iter().all(|name| name.starts_with("embed: "));
    ensure!(!kernels.is_empty() && named, "{kernels:?}");
    Ok(())
}

/// One row, few and many, with a bias and without, of which not all count.
fn linear_add(backend: &Arc<dyn Backend>) -> Result<()> {
    for (rows, counted) in [(1, 1), (5, 4), (70, 67)] {
        let mut bench = Bench::new(backend);
        let (width, k) = (290, 288);
        let (a, weight, bias, x) = (
            values(rows, k, 3),
            values(width, k, 4),
            values(1, width, 5),
            values(rows, width, 6),
        );
        let op = LinearAdd {
            a: bench.f32(&a)?,
            weight: bench.f16(&weight)?,
            bias: (rows != 5).then(|| bench.f32(&bias)).transpose()?,
            count: bench.rig().count(counted as u32)?,
            x: bench.f32(&x)?,
        };
        let plan = bench.prepare(&[op.into()])?;
        bench.finish(plan)?;
        let expected = |row: usize, col: usize| {
            let bias = op.bias.map_or(0.0, |_| f64::from(bias[0][col]));
            let added = product(&weight[col], &a[row]) + bias;
            f64::from(x[row][col]) + if row < counted { added } else { 0.0 }
        };
        let expected: Vec<Vec<f64>> = (0..rows)
            .map(|row| (0..width).map(|col| expected(row, col)).collect())
            .collect();
        exact(&bench.read(op.x)?, &expected)?;
    }
    Ok(())
}

fn an_empty_recording_runs(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let plan = bench.prepare(&[])?;
    same(backend.kernels(plan), Vec::new(), "kernels")?;
    for _ in 0..3 {
        bench.finish(plan)?;
    }
    Ok(())
}

/// Backends keep what they can of a plan when it runs again: cuda captures a graph at the second run, wgpu encodes ahead from the third.
fn runs_add_up(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let sum = Sum::new(&mut bench, 7)?;
    let plan = bench.prepare(&[Op::from(sum.op)])?;
    for runs in 1..=5 {
        bench.finish(plan)?;
        sum.check(&bench, runs)?;
    }
    // Several that nothing waits for, and a plan in which the op comes more than once.
    let twice = bench.prepare(&[Op::from(sum.op); 2])?;
    let mut last = backend.run(plan)?;
    for _ in 0..20 {
        let next = backend.run(twice)?;
        ensure!(last <= next, "{next:?} came after {last:?}");
        last = backend.run(plan)?;
    }
    backend.wait(last)?;
    sum.check(&bench, 5 + 1 + 20 * 3)
}

fn reads_and_writes_keep_their_place(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let sum = Sum::new(&mut bench, 17)?;
    let plan = bench.prepare(&[Op::from(sum.op)])?;
    let mut tickets = Vec::new();
    for runs in 1..=4 {
        tickets.push(backend.run(plan)?);
        // Nothing waits but the read.
        sum.check(&bench, runs)?;
    }
    tickets.push(backend.run(plan)?);
    sum.restart(&bench)?;
    tickets.push(backend.run(plan)?);
    // A copy, too, has its place among them.
    let (x, kept) = (sum.op.x, bench.f32(&values(1, 16, 0))?);
    backend.copy((x.buffer, 0), (kept.buffer, 0), x.bytes())?;
    tickets.push(backend.run(plan)?);
    sum.check_copy(&bench, kept, 1)?;
    sum.check(&bench, 2)?;
    tickets
        .into_iter()
        .try_for_each(|ticket| backend.wait(ticket))?;
    Ok(())
}

/// A table of more bytes than staging memory holds, written anew before each run: every run sees its own.
fn large_writes_keep_their_place(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let (rows, cols) = (20_480, 512);
    let value = |round: u32, row: u32| (row % 500 + 500 * round) as f32;
    let table = |round: u32| -> Vec<Vec<f32>> {
        let row = |row| vec![value(round, row); cols];
        (0..rows).map(row).collect()
    };
    let wanted = [0, 4095, 4096, 12_345, rows - 1];
    let weights = bench.f16(&table(0))?;
    let listed = tokens(&mut bench, &wanted)?;
    let count = bench.rig().count(wanted.len() as u32)?;
    let mut plans = Vec::new();
    for _ in 0..2 {
        let op = Embed {
            table: weights,
            rows: listed,
            count,
            out: bench.f32(&vec![vec![-1.0; cols]; wanted.len()])?,
        };
        plans.push((op, bench.prepare(&[op.into()])?));
    }
    // Twice, so that plans are also met that have run before.
    let contents: Vec<Vec<u8>> = (0..4).map(|round| halves(&table(round))).collect();
    for rounds in [[0, 1], [2, 3]] {
        let mut last = None;
        for (round, (_, plan)) in rounds.iter().zip(&plans) {
            let content = &contents[*round as usize];
            backend.write(weights.buffer, weights.offset, content)?;
            last = Some(backend.run(*plan)?);
        }
        for (round, (op, _)) in rounds.iter().zip(&plans) {
            for (row, found) in wanted.iter().zip(bench.read(op.out)?) {
                let expected = vec![value(*round, *row); cols];
                same(found, expected, &format!("row {row} of round {round}"))?;
            }
        }
        last.map_or(Ok(()), |ticket| backend.wait(ticket))?;
    }
    Ok(())
}

fn old_tickets(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let sum = Sum::new(&mut bench, 27)?;
    let plan = bench.prepare(&[Op::from(sum.op)])?;
    // More than a backend tells apart.
    let mut tickets = Vec::new();
    for _ in 0..150 {
        tickets.push(backend.run(plan)?);
    }
    for place in [0, 100, 3, 149, 0, 149] {
        backend.wait(tickets[place])?;
    }
    sum.check(&bench, 150)?;
    bench.finish(plan)?;
    backend.wait(tickets[0])?;
    let never = Ticket(tickets[149].0 + 1_000_000);
    refused(backend.wait(never), "a run that never was")
}

fn profiles_time_each_op(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let logits = Logits::new(&mut bench, 3)?;
    // More ops than a submission takes.
    let plan = bench.prepare(&[Op::from(logits.op); 150])?;
    let result = backend.profile(plan);
    if matches!(result, Err(BackendError::Unsupported { .. })) {
        ensure!(!backend.caps().timestamps, "{result:?}");
        return Ok(());
    }
    let times = result?;
    same(times.len(), 150, "times")?;
    let all: u64 = times.iter().sum();
    ensure!(all > 0 && all < 100_000_000_000, "{all} nanoseconds");
    logits.check(&bench)?;
    bench.release(plan);
    refused(backend.profile(plan), "a released plan")?;

    let sum = Sum::new(&mut bench, 37)?;
    let plan = bench.prepare(&[Op::from(sum.op); 2])?;
    let empty = bench.prepare(&[])?;
    for runs in 0..4 {
        same(backend.profile(plan)?.len(), 2, "times")?;
        sum.check(&bench, 4 * runs + 2)?;
        bench.finish(plan)?;
        sum.check(&bench, 4 * runs + 4)?;
    }
    same(backend.profile(empty)?, Vec::new(), "times of nothing")
}

fn scratch_memory_grows(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let small = Logits::new(&mut bench, 2)?;
    let large = Logits::new(&mut bench, 100)?;
    let without = backend.allocated();
    let first = bench.prepare(&[small.op.into()])?;
    small.finish(&bench, first)?;
    let second = bench.prepare(&[large.op.into()])?;
    // The first plan was bound to memory that is no more.
    small.clear(&bench)?;
    bench.finish(first)?;
    bench.finish(second)?;
    small.check(&bench)?;
    large.check(&bench)?;
    bench.release(first);
    bench.finish(second)?;
    bench.release(second);
    let left = backend.allocated() - without;
    // Only what a backend keeps for reads, which stays.
    ensure!(left <= 64 << 10, "{left} bytes are left");
    Ok(())
}

fn plans_take_turns(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let mut plans = Vec::new();
    // Each needs more working memory than those before it, which have all run often enough to be kept in whatever form.
    for rows in [2, 7, 60, 200, 500] {
        let logits = Logits::new(&mut bench, rows)?;
        let plan = bench.prepare(&[logits.op.into()])?;
        plans.push((logits, plan));
        for _ in 0..3 {
            for (logits, _) in &plans {
                logits.clear(&bench)?;
            }
            let mut last = None;
            for (_, plan) in plans.iter().chain(plans.iter().rev()) {
                last = Some(backend.run(*plan)?);
            }
            for (logits, _) in &plans {
                logits.check(&bench)?;
            }
            last.map_or(Ok(()), |ticket| backend.wait(ticket))?;
        }
    }
    // When the largest is gone, the others still have what they need.
    if let Some((largest, plan)) = plans.pop() {
        bench.release(plan);
        largest.free(&mut bench);
    }
    for (logits, plan) in &plans {
        logits.finish(&bench, *plan)?;
    }
    Ok(())
}

fn gone_things_are_noticed(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let op = Logits::new(&mut bench, 2)?.op;
    let plan = bench.prepare(&[op.into()])?;
    let other = bench.prepare(&[op.into()])?;
    bench.finish(plan)?;
    let kernels = backend.kernels(plan);
    let named = kernels.iter().all(|name| name.starts_with("norm_linear: "));
    ensure!(!kernels.is_empty() && named, "{kernels:?}");
    bench.release(other);
    bench.release(other);
    refused(backend.run(other), "a released plan")?;
    same(backend.kernels(other), Vec::new(), "kernels of it")?;
    bench.rig().free(op.x);
    refused(backend.run(plan), "a plan without its buffer")?;
    refused(backend.run(plan), "the same again")?;
    same(backend.kernels(plan), kernels, "kernels")?;
    late(&mut bench, op, "a recording without its buffer")
}

/// Fails where an op is not refused when it is prepared, or at the latest when it runs, as on backends that look operands up then.
fn late(bench: &mut Bench, op: NormLinear, what: &str) -> Result<()> {
    match bench.prepare(&[op.into()]) {
        Ok(plan) => refused(bench.finish(plan), what),
        outcome => refused(outcome, what),
    }
}

fn a_new_buffer_is_another(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let (sum, beside) = (Sum::new(&mut bench, 47)?, Sum::new(&mut bench, 57)?);
    let plan = bench.prepare(&[Op::from(sum.op)])?;
    let other = bench.prepare(&[Op::from(beside.op)])?;
    for runs in 1..=3 {
        bench.finish(plan)?;
        bench.finish(other)?;
        sum.check(&bench, runs)?;
    }
    // Also while a run of the plan is under way.
    let ticket = backend.run(plan)?;
    bench.rig().free(sum.op.weight);
    // Of the same size, so that a driver may well put it where the old one was.
    let weight = bench.f16(&values(16, 32, 48))?;
    ensure!(weight.buffer != sum.op.weight.buffer, "an id came again");
    backend.wait(ticket)?;
    sum.check(&bench, 4)?;
    refused(backend.run(plan), "a plan of the freed buffer")?;
    sum.check(&bench, 4)?;
    // Another plan is none the worse for it, and one of the new buffer adds the same as before, since its content is.
    bench.finish(other)?;
    beside.check(&bench, 4)?;
    let renewed = LinearAdd { weight, ..sum.op };
    let renewed = bench.prepare(&[Op::from(renewed)])?;
    for runs in 5..=7 {
        bench.finish(renewed)?;
        sum.check(&bench, runs)?;
    }
    refused(backend.run(plan), "the old plan, still")?;
    bench.release(plan);
    bench.finish(renewed)?;
    sum.check(&bench, 8)
}

fn operands_outside_are_refused(backend: &Arc<dyn Backend>) -> Result<()> {
    let mut bench = Bench::new(backend);
    let op = Logits::new(&mut bench, 2)?.op;
    let with = |x: Tensor| NormLinear { x, ..op };
    // Two rows of 256 bytes.
    late(&mut bench, with(op.x.at(256)), "past the end")?;
    late(
        &mut bench,
        with(op.x.at(u64::MAX - 255)),
        "past all addresses",
    )?;
    let longer = Tensor { rows: 3, ..op.x };
    late(&mut bench, with(longer), "too many rows")
}

fn threads_share_a_backend(backend: &Arc<dyn Backend>) -> Result<()> {
    let work = |seed: usize| {
        let mut bench = Bench::new(backend);
        let (sum, logits) = (Sum::new(&mut bench, seed)?, Logits::new(&mut bench, seed)?);
        let adds = bench.prepare(&[Op::from(sum.op)])?;
        let fills = bench.prepare(&[Op::from(logits.op)])?;
        for round in 0..8 {
            bench.finish(adds)?;
            logits.finish(&bench, fills)?;
            sum.check(&bench, round + 1)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = [3, 40, 90]
            .map(|seed| scope.spawn(move || work(seed)))
            .into();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        })
    })
}
