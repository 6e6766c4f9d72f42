//! `sample`: bound by latency.

use anyhow::Result;
use longwave_contract::DType;
use longwave_contract::op::{Sample, SampleDesc};
use longwave_tests::rig::Values;

use super::{Case, Shapes};
use crate::work::{Tables, Work};

/// The logits once, and a token for each row.
pub(super) fn work(op: &Sample, tables: &Tables<'_>) -> Result<Work> {
    let rows = tables.count(op.count)?;
    let each = op.logits.row_bytes() + 4 * u64::from(SampleDesc::WORDS) + 4;
    Ok(Work::moves(rows * each))
}

/// The most likely token; and one that is drawn, with the usual filters and with none.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let vocabulary = shapes.config.vocabulary;
    let draw = 0x9e37_79b9;
    let ways = [
        ("greedy", SampleDesc::greedy()),
        ("filtered", SampleDesc::new(0.8, 40, 0.95, 0.05, draw)),
        ("unfiltered", SampleDesc::new(1.0, 0, 1.0, 0.0, draw)),
    ];
    let case = |(way, desc): (&str, SampleDesc)| {
        Case::new(format!("sample 1 of {vocabulary} {way}"), move |rig| {
            // Spread as a model's: the largest are some ten above the bulk.
            let logits: Vec<u32> = (0..vocabulary)
                .map(|_| {
                    let sum: f32 = (0..8).map(|_| rig.value(Values::Flat)).sum();
                    (2.0 * sum).to_bits()
                })
                .collect();
            Ok(Sample {
                logits: rig.words(DType::F32, 1, vocabulary, &logits)?,
                samplings: rig.words(
                    DType::U32,
                    1,
                    SampleDesc::WORDS,
                    bytemuck::cast_slice(&[desc]),
                )?,
                recent: rig.words(DType::U32, 1, 1, &[0])?,
                count: rig.count(1)?,
                draws: desc.rate != 0.0,
                out: rig.words(DType::U32, 1, 1, &[u32::MAX - 1])?,
            })
        })
    };
    ways.map(case).into()
}
