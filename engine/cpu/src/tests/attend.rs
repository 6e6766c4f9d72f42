//! attend.

use half::f16;
use longwave_contract::kv::{Entry, PAGE, RowDesc, RowShape, Tier, ViewDesc};
use longwave_contract::op::Attend;
use longwave_contract::{Backend, DType, Tolerance};

use super::{Case, Stage, TIGHT, assert_close, operand};

/// What a view names, in position order.
#[derive(Clone)]
struct View {
    slots: Vec<u32>,
    last: u32,
    run: u32,
}

struct Scene {
    op: Attend,
    q: Case,
    kv: Case,
    out: Case,
    views: Vec<View>,
    rows: Vec<RowDesc>,
}

const POISON: f32 = 60000.0;
const PAGES: u32 = 40;

/// Slots of `length` tokens in pages that are shuffled by `step`, which is odd.
fn paged(length: u32, step: u32, run: u32) -> View {
    let slots = (0..length).map(|t| (t / PAGE * step + 3) % PAGES * PAGE + t % PAGE);
    View {
        slots: slots.collect(),
        last: length - 1,
        run,
    }
}

/// `rows` are pairs of a view and a position. Token `t` of a view holds the same row wherever it lies; everything else is poison.
fn scene(
    stage: &mut Stage,
    shape: RowShape,
    group: u32,
    views: &[View],
    rows: &[(u32, u32)],
) -> Scene {
    let (n, cols) = (rows.len() as u32, shape.cols() as usize);
    let q = stage.case(DType::F32, n, group * shape.width());
    let out = stage.case(DType::F32, n, group * shape.width());
    let mut cache = vec![f16::from_f32(POISON); (PAGES * PAGE) as usize * cols];
    let longest = views.iter().map(|view| view.slots.len()).max().unwrap_or(0);
    let tokens: Vec<f16> = (0..longest * cols)
        .map(|_| f16::from_f32(2.0 * stage.even()))
        .collect();
    let (mut entries, mut descs) = (Vec::new(), Vec::new());
    for view in views {
        descs.push(ViewDesc {
            first: entries.len() as u32,
            length: view.slots.len() as u32,
            last: view.last,
            run: view.run,
        });
        for (token, slot) in view.slots.iter().enumerate() {
            cache[*slot as usize * cols..][..cols].copy_from_slice(&tokens[token * cols..][..cols]);
        }
        let named = view.slots.iter().step_by(view.run as usize);
        entries.extend(named.map(|slot| Entry::new(Tier::Raw, slot / view.run).unwrap().0));
    }
    let kv = stage.upload(
        DType::F16,
        PAGES * PAGE,
        shape.cols(),
        bytemuck::cast_slice(&cache),
    );
    let rows: Vec<RowDesc> = rows
        .iter()
        .map(|&(view, position)| RowDesc {
            view,
            position,
            ..RowDesc::default()
        })
        .collect();
    let op = Attend {
        q: q.tensor,
        kv,
        rows: stage.rows(&rows),
        count: stage.count(n),
        views: stage.views(&descs),
        entries: stage.u32s(1, entries.len() as u32, &entries),
        shape,
        scale: 0.3,
        longest: longest as u32,
        out: out.tensor,
    };
    let kv = Case {
        tensor: kv,
        values: cache.iter().map(|v| f64::from(*v)).collect(),
    };
    Scene {
        op,
        q,
        kv,
        out,
        views: views.to_vec(),
        rows,
    }
}

impl Scene {
    fn expected(&self, count: usize) -> Vec<f64> {
        let dim = self.op.shape.head_dim as usize;
        let (heads, width) = (self.op.heads() as usize, self.op.shape.width() as usize);
        let group = heads / self.op.shape.kv_heads as usize;
        let mut expected = self.out.values.clone();
        for (row, desc) in self.rows.iter().enumerate().take(count) {
            let view = &self.views[desc.view as usize];
            let hidden = view.last.saturating_sub(desc.position) as usize;
            let seen = &view.slots[..view.slots.len().saturating_sub(hidden)];
            for head in 0..heads {
                let query = &self.q.row(row)[head * dim..][..dim];
                let at = head / group * dim;
                let score = |slot: &u32| {
                    let key = &self.kv.row(*slot as usize)[at..][..dim];
                    let product: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    f64::from(self.op.scale) * product
                };
                let scores: Vec<f64> = seen.iter().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let out = &mut expected[(row * heads + head) * dim..][..dim];
                out.fill(0.0);
                for (slot, score) in seen.iter().zip(&scores) {
                    let value = &self.kv.row(*slot as usize)[width + at..][..dim];
                    for (out, value) in out.iter_mut().zip(value) {
                        *out += (score - max).exp() / sum * value;
                    }
                }
            }
        }
        expected
    }

    fn check(&self, stage: &Stage, count: usize, name: &str) -> Vec<f64> {
        let kernel = stage.run_named(self.op).unwrap();
        let capacity = self.rows.len();
        let word = if capacity < 4 { "stream" } else { "tile" };
        assert_eq!(kernel, format!("attend: {word}"));
        let found = stage.read(self.out.tensor);
        // A score of about 10 carries a few roundings, which the exponential makes a share of the result.
        let tolerance = Tolerance {
            relative: 5e-6,
            ..TIGHT
        };
        assert_close(
            name,
            tolerance,
            &found,
            &self.expected(count),
            self.op.out.cols,
        );
        found
    }
}

const SHAPE: RowShape = RowShape {
    kv_heads: 2,
    head_dim: 64,
};

#[test]
fn single_rows_of_every_length_group_and_head() {
    for length in [1, 2, 31, 32, 33, 63, 127, 128, 129, 300, 1029] {
        for (group, dim) in [(1, 64), (4, 128), (8, 64), (3, 6)] {
            let shape = RowShape {
                head_dim: dim,
                ..SHAPE
            };
            for run in [1, PAGE] {
                let mut stage = Stage::new();
                let view = paged(length, 7, run);
                let scene = scene(&mut stage, shape, group, &[view], &[(0, length - 1)]);
                let name = format!("length {length}, group {group}, dim {dim}, run {run}");
                scene.check(&stage, 1, &name);
            }
        }
    }
}

#[test]
fn chunks_are_causal() {
    for (length, chunk) in [(5, 5), (33, 9), (64, 33), (257, 20), (700, 150)] {
        for (group, dim) in [(1, 64), (4, 128), (8, 64), (3, 6)] {
            let shape = RowShape {
                head_dim: dim,
                ..SHAPE
            };
            for run in [1, PAGE] {
                let mut stage = Stage::new();
                let rows: Vec<(u32, u32)> = (length - chunk..length).map(|p| (0, p)).collect();
                let view = paged(length, 9, run);
                let scene = scene(&mut stage, shape, group, &[view], &rows);
                let name = format!("{chunk} of {length}, group {group}, dim {dim}, run {run}");
                scene.check(&stage, rows.len(), &name);
            }
        }
    }
}

#[test]
fn where_pages_lie_and_how_they_are_named_changes_no_bit() {
    for rows in [&[(0, 600)][..], &[(0, 597), (0, 598), (0, 599), (0, 600)]] {
        let mut results = Vec::new();
        for (step, run) in [(1, PAGE), (7, PAGE), (23, 1)] {
            let mut stage = Stage::new();
            let view = paged(601, step, run);
            let scene = scene(&mut stage, SHAPE, 3, &[view], rows);
            results.push(scene.check(&stage, rows.len(), "permuted"));
        }
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0], results[2]);
    }
}

#[test]
fn ragged_rows_of_several_views() {
    // A chunk whose view is a selection of old tokens, decode rows, and rows that see nothing.
    let mut sparse = paged(200, 3, 1);
    sparse.last = 999;
    let dense = paged(45, 3, PAGE);
    let rows: Vec<(u32, u32)> = [(1, 44)]
        .into_iter()
        .chain((993..1000).map(|p| (0, p)))
        .chain([
            (1, 40),
            (0, 799),
            (0, 0),
            (1, 0),
            (1, 1),
            (1, 2),
            (1, 3),
            (0, 999),
        ])
        .collect();
    let mut stage = Stage::new();
    let mut scene = scene(&mut stage, SHAPE, 4, &[sparse, dense], &rows);
    scene.check(&stage, rows.len(), "all");
    scene.op.count = stage.count(9);
    stage
        .backend
        .write(scene.out.tensor.buffer, 0, &bytes(&scene.out.values))
        .unwrap();
    scene.check(&stage, 9, "nine");
}

/// f32 values as bytes.
fn bytes(values: &[f64]) -> Vec<u8> {
    let values = values.iter().map(|v| (*v as f32).to_le_bytes());
    values.flatten().collect()
}

#[test]
fn peaked_and_flat_scores() {
    for scale in [0.0, 40.0, -3.0] {
        for rows in [&[(0, 299)][..], &[(0, 296), (0, 297), (0, 298), (0, 299)]] {
            let mut stage = Stage::new();
            let view = paged(300, 7, PAGE);
            let mut scene = scene(&mut stage, SHAPE, 2, &[view], rows);
            scene.op.scale = scale;
            stage.run(scene.op).unwrap();
            // Scores of hundreds lose digits before the exponential.
            let tolerance = Tolerance {
                absolute: 1e-6,
                relative: 5e-6f32.max(4e-6 * scale.abs()),
            };
            let found = stage.read(scene.out.tensor);
            let expected = scene.expected(rows.len());
            let name = format!("scale {scale}");
            assert_close(&name, tolerance, &found, &expected, scene.op.out.cols);
        }
    }
}

#[test]
fn what_a_view_names_wrongly_is_an_error_that_names_the_operand() {
    let mut stage = Stage::new();
    let scene = scene(&mut stage, SHAPE, 1, &[paged(40, 3, PAGE)], &[(0, 39)]);
    let op = scene.op;
    let row = |view, position| RowDesc {
        view,
        position,
        ..RowDesc::default()
    };
    let view = |first, length, last, run| ViewDesc {
        first,
        length,
        last,
        run,
    };
    let rows = stage.rows(&[row(1, 39)]);
    assert_eq!(operand(stage.run(Attend { rows, ..op })), "rows");
    let views = stage.views(&[view(0, 41, 40, 1)]);
    let longest = 39;
    assert_eq!(operand(stage.run(Attend { longest, ..op })), "longest");
    let longest = 1000;
    assert_eq!(
        operand(stage.run(Attend {
            views,
            longest,
            ..op
        })),
        "views"
    );
    for bad in [
        view(0, 40, 39, 0),
        view(0, 40, 39, 16),
        view(1, 40, 39, PAGE),
        view(u32::MAX, 40, 39, PAGE),
        view(0, u32::MAX, 39, PAGE),
    ] {
        let views = stage.views(&[bad]);
        let longest = u32::MAX;
        let result = stage.run(Attend {
            views,
            longest,
            ..op
        });
        assert_eq!(operand(result), "views", "{bad:?}");
    }
    let page = |tier, index| Entry::new(tier, index).unwrap().0;
    for bad in [
        page(Tier::Raw, PAGES),
        page(Tier::Quant, 0),
        page(Tier::Raw, (1 << 29) - 1),
        u32::MAX,
    ] {
        let entries = stage.u32s(1, 2, &[page(Tier::Raw, 0), bad]);
        let result = stage.run(Attend { entries, ..op });
        assert_eq!(operand(result), "entries", "{bad:#x}");
    }
    let entries = stage.u32s(1, 3, &[page(Tier::Raw, 0), page(Tier::Raw, 1), u32::MAX]);
    stage
        .run(Attend { entries, ..op })
        .expect("the view does not name the bad entry");
    let count = stage.count(2);
    assert_eq!(operand(stage.run(Attend { count, ..op })), "count");
    let views = stage.views(&[ViewDesc::default()]);
    stage
        .run(Attend { views, ..op })
        .expect("a view of nothing needs no entries");
    assert!(stage.read(op.out).iter().all(|value| *value == 0.0));
}
