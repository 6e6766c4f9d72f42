//! `observe`: bound by the bytes of keys.

use anyhow::Result;
use longwave_contract::kv::PickDesc;
use longwave_contract::op::Observe;
use longwave_tests::rig::Values;

use super::{Case, Held, Shapes};
use crate::work::{Tables, Work};

/// The keys of all candidates, and a score for each.
pub(super) fn work(op: &Observe, tables: &Tables<'_>) -> Result<Work> {
    let picks: Vec<PickDesc> = tables.rows(op.picks, tables.count(op.count)?)?;
    let candidates: u64 = picks.iter().map(|pick| u64::from(pick.candidates)).sum();
    let queries = picks.len() as u64 * op.q.row_bytes();
    Ok(Work {
        bytes: (candidates * (op.kv.row_bytes() / 2 + 4) + queries) as f64,
        flops: 2.0 * candidates as f64 * f64::from(op.q.cols),
    })
}

/// The last row of one sequence ranks what lies between sinks and recent tokens.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (row, q) = (shapes.config.shape, shapes.config.q_width());
    let scale = 1.0 / (row.head_dim as f32).sqrt();
    let depth = shapes.depth;
    vec![Case::new(format!("observe 1 over {depth}"), move |rig| {
        let held = Held::new(rig, depth);
        Ok(Observe {
            q: rig.f32(1, q, Values::Flat)?,
            kv: rig.cache(row, held.pages, &held.slots, Values::Flat)?,
            rows: rig.rows(&held.rows(1))?,
            views: rig.views(&[held.view()])?,
            entries: rig.entries(&held.entries)?,
            picks: rig.picks(&[held.pick()])?,
            count: rig.count(1)?,
            shape: row,
            scale,
            scores: rig.f32(1, depth, Values::Flat)?,
        })
    })]
}
