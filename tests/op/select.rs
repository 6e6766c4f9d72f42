//! Cases of `select`.

use std::sync::Arc;

use anyhow::{Result, ensure};
use longwave_contract::kv::{RowShape, ViewDesc};
use longwave_contract::op::{Attend, Observe, Select, Selected};
use longwave_contract::{Backend, DType, Op, Recording};
use longwave_tests::rig::{Rig, Values};

use super::Case;
use super::observe::{Shape, tables};

/// How scores look.
#[derive(Clone, Copy)]
enum Scores {
    /// All different.
    Different,
    /// A few values, so that many are equal at the threshold.
    Few,
    /// All equal: the first stay.
    Equal,
    /// Most of them zero.
    Sparse,
}

pub(super) fn cases() -> Vec<Case> {
    let budgets = [1, 2, 31, 100, 255, 256, 257, 5000];
    let looks = [
        ("different", Scores::Different),
        ("few", Scores::Few),
        ("equal", Scores::Equal),
        ("sparse", Scores::Sparse),
    ];
    let mut cases = Vec::new();
    for (name, scores) in looks {
        for keep in budgets {
            cases.push(Case::new(format!("{keep} of {name} scores"), move |rig| {
                build(rig, SHORT, scores, keep, Selected::Entries)
            }));
            let planted = format!("{keep} planted besides {name} scores");
            cases.push(Case::new(planted, move |rig| {
                let mut op = build(rig, SHORT, scores, keep, Selected::Tokens)?;
                if let Op::Select(select) = &mut op {
                    select.overlap = Some(700);
                }
                Ok(op)
            }));
            let name = format!("places of {keep} of {name} scores");
            cases.push(Case::new(name, move |rig| {
                build(rig, SHORT, scores, keep, Selected::Tokens)
            }));
        }
        for keep in [1, 2048, 60_000] {
            let name = format!("{keep} of many {name} scores");
            cases.push(Case::new(name, move |rig| {
                build(rig, LONG, scores, keep, Selected::Entries)
            }));
        }
    }
    cases
}

/// Lengths of sequences whose candidates a workgroup takes by itself, and of some that many share.
const SHORT: &[u32] = &[11, 12, 43, 300, 1027, 2000];
const LONG: &[u32] = &[12, 5000, 70_001];

fn build(
    rig: &mut Rig,
    lengths: &'static [u32],
    scores: Scores,
    keep: u32,
    yields: Selected,
) -> Result<Op> {
    let shape = Shape {
        heads: 1,
        kv_heads: 1,
        head_dim: 64,
        lengths,
        sinks: 8,
        tail: 3,
        values: Values::Flat,
    };
    let tables = tables(rig, shape, keep);
    let count = tables.picks.len() as u32;
    let capacity = lengths.iter().fold(0, |most, &length| length.max(most)) + 3;
    let words: Vec<u32> = (0..count * capacity)
        .map(|_| {
            let value = rig.value(Values::Flat).abs();
            match scores {
                Scores::Different => value,
                Scores::Few => (value * 4.0).floor() / 4.0,
                Scores::Equal => 0.25,
                Scores::Sparse => (value - 0.9).max(0.0),
            }
            .to_bits()
        })
        .collect();
    // What was there before must not show: every row is filled up with zeros.
    let poison = vec![u32::MAX; (count * capacity) as usize];
    Ok(Select {
        scores: rig.words(DType::F32, count, capacity, &words)?,
        rows: rig.rows(&tables.rows)?,
        views: rig.views(&tables.views)?,
        entries: rig.entries(&tables.entries)?,
        picks: rig.picks(&tables.picks)?,
        count: rig.count(count)?,
        yields,
        overlap: None,
        out: rig.words(DType::U32, count, capacity, &poison)?,
    }
    .into())
}

/// A budget that leaves nothing out changes not a single bit of attention.
pub(super) fn everything_selected_is_dense(subject: &Arc<dyn Backend>) -> Result<()> {
    let shape = Shape {
        heads: 6,
        kv_heads: 2,
        head_dim: 64,
        lengths: &[12, 43, 300, 1027],
        sinks: 8,
        tail: 3,
        values: Values::Peaked,
    };
    let mut rig = Rig::new(subject, 5);
    let tables = tables(&mut rig, shape, 1027);
    let (n, p, longest) = (tables.rows.len() as u32, tables.picks.len() as u32, 1027u32);
    let pitch = longest.next_multiple_of(4);
    let row = RowShape {
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
    };
    let chosen_views: Vec<ViewDesc> = (0..)
        .zip(&tables.views)
        .map(|(index, view)| ViewDesc {
            first: index * pitch,
            run: 1,
            ..*view
        })
        .collect();
    let width = shape.heads * shape.head_dim;
    let dense = Attend {
        q: rig.f32(n, width, shape.values)?,
        kv: rig.cache(row, tables.pages, &tables.used, shape.values)?,
        rows: rig.rows(&tables.rows)?,
        count: rig.count(n)?,
        views: rig.views(&tables.views)?,
        entries: rig.entries(&tables.entries)?,
        shape: row,
        scale: 0.125,
        longest,
        out: rig.f32(n, width, Values::Flat)?,
    };
    let observe = Observe {
        q: dense.q,
        kv: dense.kv,
        rows: dense.rows,
        views: dense.views,
        entries: dense.entries,
        picks: rig.picks(&tables.picks)?,
        count: rig.count(p)?,
        shape: row,
        scale: dense.scale,
        scores: rig.f32(p, longest, Values::Flat)?,
    };
    let select = Select {
        scores: observe.scores,
        rows: dense.rows,
        views: dense.views,
        entries: dense.entries,
        picks: observe.picks,
        count: observe.count,
        yields: Selected::Entries,
        overlap: None,
        out: rig.words(DType::U32, p, longest, &vec![0; (p * longest) as usize])?,
    };
    let mut entries = select.out;
    (entries.rows, entries.cols) = (1, p * pitch);
    let sparse = Attend {
        views: rig.views(&chosen_views)?,
        entries,
        out: rig.f32(n, width, Values::Flat)?,
        ..dense
    };
    let mut recording = Recording::new("everything selected");
    recording.push(dense)?;
    recording.push(observe)?;
    recording.push(select)?;
    recording.push(sparse)?;
    let plan = subject.prepare(&recording)?;
    subject.wait(subject.run(plan)?)?;
    subject.release(plan);
    let (dense, sparse) = (rig.read(dense.out)?, rig.read(sparse.out)?);
    ensure!(
        dense.iter().any(|&byte| byte != 0),
        "attention wrote nothing"
    );
    ensure!(dense == sparse, "selecting everything changed the result");
    Ok(())
}
