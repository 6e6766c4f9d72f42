use std::cmp::Reverse;

use longwave_contract::BackendError;
use longwave_contract::kv::{Entry, Tier};
use longwave_contract::op::{Select, Selected, planted};

use super::view::{self, Pick, Tables};
use crate::error::misfit;
use crate::memory::Memory;

/// See [`Select`].
pub(super) fn run(op: &Select, memory: &mut Memory) -> Result<(), BackendError> {
    memory.lend(op.out, |memory, mut out| {
        let count = memory.count(Select::NAME, op.count, op.picks.rows)?;
        let scores = memory.matrix(op.scores)?;
        let tables = Tables {
            rows: memory.matrix(op.rows)?,
            views: memory.matrix(op.views)?,
            entries: memory.matrix(op.entries)?,
            picks: memory.matrix(op.picks)?,
            slots: 1 << Entry::INDEX_BITS,
            capacity: scores.cols(),
        };
        for index in 0..count {
            let pick = view::pick(Select::NAME, &tables, index)?;
            let chosen = choose(&pick, scores.f32s(index), op);
            if chosen.len() > op.out.cols as usize {
                let expected = format_args!("at most {} tokens in pick {index}", op.out.cols);
                return Err(misfit(Select::NAME, "out", expected, chosen.len()));
            }
            let row = out.u32s_mut(index);
            row.fill(0);
            row[..chosen.len()].copy_from_slice(&chosen);
        }
        Ok(())
    })
}

/// The entries or places of all tokens that stay, in position order.
fn choose(pick: &Pick, scores: &[f32], op: &Select) -> Vec<u32> {
    let (first, candidates) = (pick.pick.first as usize, pick.candidates().len());
    let keep = (pick.pick.keep as usize).min(candidates);
    // Scores are not negative, so their bits are ordered as they are.
    let mut order: Vec<(Reverse<u32>, usize)> = scores[..candidates]
        .iter()
        .enumerate()
        .map(|(at, score)| {
            let bits = match op.overlap {
                None => score.max(0.0).to_bits(),
                Some(overlap) => {
                    let (all, keep) = (pick.pick.candidates, pick.pick.keep);
                    planted(overlap, all, keep, pick.position, at as u32)
                }
            };
            (Reverse(bits), at)
        })
        .collect();
    if keep < candidates {
        order.select_nth_unstable(keep);
        order.truncate(keep);
    }
    let mut kept: Vec<usize> = order.into_iter().map(|(_, at)| first + at).collect();
    kept.sort_unstable();
    let tokens = (0..first)
        .chain(kept)
        .chain(first + candidates..pick.slots.len());
    match op.yields {
        Selected::Entries => {
            let entry = |token: usize| Entry::new(Tier::Raw, pick.slots[token]);
            tokens.filter_map(entry).map(|entry| entry.0).collect()
        }
        Selected::Tokens => tokens.map(|token| token as u32).collect(),
    }
}
