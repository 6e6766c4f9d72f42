//! `reside`: bound by latency.

use anyhow::Result;
use longwave_contract::DType;
use longwave_contract::kv::StoreDesc;
use longwave_contract::op::{RESIDENT_HEAD, Reside};
use longwave_runtime::policy::Budget;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// The map in and out, a token and an entry for each that is chosen, and what is to be restored.
pub(super) fn work(op: &Reside, tables: &Tables<'_>) -> Result<Work> {
    let count = tables.count(op.count)?;
    let stores: Vec<StoreDesc> = tables.rows(op.stores, count)?;
    let chosen: u64 = stores.iter().map(|store| u64::from(store.chosen)).sum();
    Ok(Work::moves(
        2 * count * op.resident.row_bytes() + 8 * chosen + op.misses.row_bytes(),
    ))
}

/// One row's choice, of which 70 % lies in the lane.
pub(super) fn cases(_shapes: &Shapes) -> Vec<Case> {
    let budget = Budget::default();
    let (chosen, slots) = (budget.tokens(), budget.tokens() + budget.keep);
    vec![Case::new(format!("reside {chosen} chosen"), move |rig| {
        let held = chosen * 7 / 10;
        let length = 2 * slots;
        let store = StoreDesc {
            length,
            chosen,
            generation: 1,
            ..StoreDesc::default()
        };
        let mut resident = vec![0u32; (RESIDENT_HEAD + 2 * slots) as usize];
        (resident[0], resident[1]) = (1, 10);
        for slot in 0..slots {
            // Those that are chosen, and others.
            let token = if slot < held { 2 * slot } else { 2 * slot + 1 };
            resident[(RESIDENT_HEAD + slot) as usize] = token;
            resident[(RESIDENT_HEAD + slots + slot) as usize] = 1 + slot % 9;
        }
        let tokens: Vec<u32> = (0..chosen).map(|index| 2 * index).collect();
        let zeros = |words: u32| vec![0u32; words as usize];
        Ok(Reside {
            tokens: rig.words(DType::U32, 1, chosen, &tokens)?,
            stores: rig.words(
                DType::U32,
                1,
                StoreDesc::WORDS,
                bytemuck::cast_slice(&[store]),
            )?,
            count: rig.count(1)?,
            resident: rig.words(DType::U32, 1, RESIDENT_HEAD + 2 * slots, &resident)?,
            out: rig.words(DType::U32, 1, chosen, &zeros(chosen))?,
            misses: rig.words(DType::U32, chosen, 4, &zeros(4 * chosen))?,
            counts: rig.words(DType::U32, 1, 4, &zeros(4))?,
            tile: chosen,
        })
    })]
}
