//! `select`: bound by latency.

use anyhow::Result;
use longwave_contract::DType;
use longwave_contract::kv::PickDesc;
use longwave_contract::op::{Select, Selected};
use longwave_tests::rig::Values;

use super::{Case, Held, Shapes};
use crate::work::{Tables, Work};

/// A score for each candidate, and an entry for each token that stays.
pub(super) fn work(op: &Select, tables: &Tables<'_>) -> Result<Work> {
    let picks: Vec<PickDesc> = tables.rows(op.picks, tables.count(op.count)?)?;
    let words = picks
        .iter()
        .map(|pick| u64::from(pick.candidates) + u64::from(pick.candidates.min(pick.keep)));
    Ok(Work::moves(4 * words.sum::<u64>()))
}

/// One row chooses among the tokens of one sequence.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let depth = shapes.depth;
    vec![Case::new(format!("select 1 of {depth}"), move |rig| {
        let held = Held::new(rig, depth);
        let scores: Vec<u32> = (0..depth)
            .map(|_| rig.value(Values::Flat).abs().to_bits())
            .collect();
        let most = held.pick().length(depth);
        Ok(Select {
            scores: rig.words(DType::F32, 1, depth, &scores)?,
            rows: rig.rows(&held.rows(1))?,
            views: rig.views(&[held.view()])?,
            entries: rig.entries(&held.entries)?,
            picks: rig.picks(&[held.pick()])?,
            count: rig.count(1)?,
            yields: Selected::Entries,
            overlap: None,
            out: rig.words(DType::U32, 1, most, &vec![u32::MAX; most as usize])?,
        })
    })]
}
