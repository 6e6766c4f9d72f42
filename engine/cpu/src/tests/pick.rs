//! observe and select.

use longwave_contract::kv::{Entry, PAGE, PickDesc, RowDesc, RowShape, Tier, ViewDesc};
use longwave_contract::op::{Observe, Select, Selected};
use longwave_contract::{DType, Tolerance};

use super::{Stage, assert_close, operand};

const SHAPE: RowShape = RowShape {
    kv_heads: 2,
    head_dim: 32,
};
const GROUP: u32 = 3;
const LENGTH: u32 = 200;

/// The slot of a token: pages in reverse order.
fn slot(token: u32) -> u32 {
    (LENGTH.div_ceil(PAGE) - 1 - token / PAGE) * PAGE + token % PAGE
}

/// One sequence of [`LENGTH`] tokens, of which row 1 sees all but the last two.
fn observe(stage: &mut Stage, pick: PickDesc, capacity: u32) -> (Observe, [super::Case; 2]) {
    let pages = LENGTH.div_ceil(PAGE);
    let q = stage.case(DType::F32, 2, GROUP * SHAPE.width());
    let kv = stage.case(DType::F16, pages * PAGE, SHAPE.cols());
    let rows = [
        RowDesc::default(),
        RowDesc {
            position: LENGTH - 3,
            ..RowDesc::default()
        },
    ];
    let view = ViewDesc {
        first: 0,
        length: LENGTH,
        last: LENGTH - 1,
        run: PAGE,
    };
    let entries: Vec<u32> = (0..pages)
        .map(|page| slot(page * PAGE) / PAGE)
        .filter_map(|page| Entry::new(Tier::Raw, page))
        .map(|entry| entry.0)
        .collect();
    let op = Observe {
        q: q.tensor,
        kv: kv.tensor,
        rows: stage.rows(&rows),
        views: stage.views(&[view]),
        entries: stage.u32s(1, pages, &entries),
        picks: stage.u32s(1, PickDesc::WORDS, bytemuck::cast_slice(&[pick])),
        count: stage.count(1),
        shape: SHAPE,
        scale: 0.7,
        scores: stage.case(DType::F32, 1, capacity).tensor,
    };
    (op, [q, kv])
}

#[test]
fn observe_is_the_largest_softmax_of_any_head() {
    let mut stage = Stage::new();
    let pick = PickDesc {
        row: 1,
        first: 5,
        candidates: 150,
        keep: 1,
    };
    let (op, [q, kv]) = observe(&mut stage, pick, 160);
    stage.run(op).expect("it runs");
    let dim = SHAPE.head_dim as usize;
    let mut expected = vec![0.0f64; 160];
    for head in 0..(GROUP * SHAPE.kv_heads) as usize {
        let query = &q.row(1)[head * dim..][..dim];
        let logits: Vec<f64> = (0..pick.candidates)
            .map(|j| {
                let key = &kv.row(slot(pick.first + j) as usize)[head / GROUP as usize * dim..];
                0.7f32 as f64 * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>()
            })
            .collect();
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        for (expected, logit) in expected.iter_mut().zip(logits) {
            *expected = expected.max(logit.exp() / total);
        }
    }
    let tolerance = Tolerance {
        absolute: 1e-9,
        relative: 1e-5,
    };
    assert_close("scores", tolerance, &stage.read(op.scores), &expected, 160);
}

#[test]
fn select_takes_sinks_the_best_and_the_tail_in_order() {
    let mut stage = Stage::new();
    let pick = PickDesc {
        row: 1,
        first: 2,
        candidates: 6,
        keep: 3,
    };
    let (observe, _) = observe(&mut stage, pick, 6);
    let scores = [0.1f32, 0.5, 0.2, 0.5, 0.2, 0.2].map(f32::to_bits);
    let op = Select {
        scores: stage.upload(
            DType::F32,
            1,
            8,
            bytemuck::cast_slice(&[scores.as_slice(), &[0; 2]].concat()),
        ),
        rows: observe.rows,
        views: observe.views,
        entries: observe.entries,
        picks: observe.picks,
        count: observe.count,
        yields: Selected::Entries,
        overlap: None,
        out: stage.u32s(1, 200, &[9; 200]),
    };
    stage.run(op).expect("it runs");
    // Of the three at 0.2 the first stays; the row sees all but two tokens of the view.
    let tokens: Vec<u32> = [0, 1, 3, 4, 5].into_iter().chain(8..LENGTH - 2).collect();
    let mut expected: Vec<f64> = tokens
        .into_iter()
        .map(|token| f64::from(slot(token)))
        .collect();
    expected.resize(200, 0.0);
    assert_eq!(stage.read(op.out), expected);
}

#[test]
fn picks_that_name_what_is_not_there_are_errors() {
    let mut stage = Stage::new();
    let good = PickDesc {
        row: 1,
        first: 5,
        candidates: 150,
        keep: 1,
    };
    for bad in [
        PickDesc { row: 2, ..good },
        PickDesc {
            candidates: 161,
            ..good
        },
        PickDesc { first: 49, ..good },
        PickDesc {
            first: u32::MAX,
            ..good
        },
    ] {
        let (op, _) = observe(&mut stage, bad, 160);
        assert_eq!(operand(stage.run(op)), "picks", "{bad:?}");
    }
}
