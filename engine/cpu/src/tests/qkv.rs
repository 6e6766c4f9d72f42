//! qkv_rope_append.

use longwave_contract::kv::{KeySpace, RowDesc, RowShape};
use longwave_contract::op::{QkvRopeAppend, ROPE_LOW};
use longwave_contract::{DType, Tensor, Tolerance};

use super::{Case, Stage, TIGHT, assert_close, normed, operand, plus, times};

/// Half a step of f16 beside the roundings of f32.
const HALF_STEP: Tolerance = Tolerance {
    absolute: 1e-6,
    relative: 4.9e-4,
};

struct Layer {
    op: QkvRopeAppend,
    x: Case,
    norm: Case,
    weights: [Case; 3],
    biases: [Case; 3],
    head_norms: [Case; 2],
    rows: Vec<RowDesc>,
    q: Case,
    kv: Case,
}

const HIGH: u32 = 40;

/// The angle of a pair at a position.
fn angle(pair: u32, half: u32, position: u32) -> f64 {
    f64::from(position) * 10_000f64.powf(-f64::from(pair) / f64::from(half))
}

/// A rotary table with an attention factor in its low rows.
fn rope(stage: &mut Stage, dim: u32, factor: f64) -> Tensor {
    let half = dim / 2;
    let mut bits = Vec::new();
    for row in 0..ROPE_LOW + HIGH {
        let (position, factor) = match row.checked_sub(ROPE_LOW) {
            None => (row, factor),
            Some(high) => (high * ROPE_LOW, 1.0),
        };
        let cos = (0..half).map(|j| angle(j, half, position).cos() * factor);
        let sin = (0..half).map(|j| angle(j, half, position).sin() * factor);
        bits.extend(cos.chain(sin).map(|v| (v as f32).to_bits()));
    }
    Tensor {
        dtype: DType::F32,
        ..stage.u32s(ROPE_LOW + HIGH, dim, &bits)
    }
}

fn layer(
    stage: &mut Stage,
    shape: RowShape,
    group: u32,
    dtype: DType,
    rows: &[(u32, u32)],
    extras: bool,
) -> Layer {
    let (n, width, dim) = (rows.len() as u32, 96, shape.head_dim);
    let (q_width, kv_width) = (group * shape.width(), shape.width());
    let widths = [q_width, kv_width, kv_width];
    let weights = widths.map(|rows| stage.case(dtype, rows, width));
    let biases = widths.map(|cols| stage.case(DType::F32, 1, cols));
    let head_norms = [(); 2].map(|()| stage.case(DType::F32, 1, dim));
    let rows: Vec<RowDesc> = rows
        .iter()
        .map(|&(position, slot)| RowDesc {
            position,
            slot,
            ..RowDesc::default()
        })
        .collect();
    let (x, norm) = (
        stage.case(DType::F32, n, width),
        stage.case(DType::F32, 1, width),
    );
    let (q, kv) = (
        stage.case(DType::F32, n, q_width),
        stage.case(DType::F16, 64, shape.cols()),
    );
    let extra = |case: &Case| extras.then_some(case.tensor);
    let op = QkvRopeAppend {
        x: x.tensor,
        norm: norm.tensor,
        epsilon: 1e-4,
        w_q: weights[0].tensor,
        w_k: weights[1].tensor,
        w_v: weights[2].tensor,
        b_q: extra(&biases[0]),
        b_k: extra(&biases[1]),
        b_v: extra(&biases[2]),
        q_norm: extra(&head_norms[0]),
        k_norm: extra(&head_norms[1]),
        rope: rope(stage, dim, 1.25),
        rows: stage.rows(&rows),
        count: stage.count(n),
        shape,
        space: KeySpace::Roped,
        q: q.tensor,
        kv: kv.tensor,
        staged: None,
    };
    Layer {
        op,
        x,
        norm,
        weights,
        biases,
        head_norms,
        rows,
        q,
        kv,
    }
}

impl Layer {
    /// The vectors of one row: projection `which` with bias, head norm and rotation as the op has them.
    fn vectors(&self, row: usize, which: usize, roped: bool) -> Vec<f64> {
        let n = normed(self.x.row(row), self.norm.row(0), self.op.epsilon);
        let mut vectors = times(&self.weights[which], &n);
        if self.op.b_q.is_some() {
            vectors = plus(&vectors, self.biases[which].row(0));
        }
        if !roped {
            return vectors;
        }
        let dim = self.op.shape.head_dim as usize;
        let half = dim / 2;
        let mut out = Vec::new();
        for head in vectors.chunks(dim) {
            let head = match self.op.q_norm {
                Some(_) => normed(head, self.head_norms[which].row(0), self.op.epsilon),
                None => head.to_vec(),
            };
            let turned = (0..dim).map(|e| {
                let j = e % half;
                let (sin, cos) = angle(j as u32, half as u32, self.rows[row].position).sin_cos();
                let (a, b) = (head[j], head[j + half]);
                1.25 * if e < half {
                    a * cos - b * sin
                } else {
                    b * cos + a * sin
                }
            });
            out.extend(turned);
        }
        out
    }

    fn check(&self, stage: &Stage, count: usize, name: &str) {
        let mut q = self.q.values.clone();
        let mut kv = self.kv.values.clone();
        let (q_width, kv_width) = (self.op.q.cols as usize, self.op.kv.cols as usize);
        for row in 0..count {
            q[row * q_width..][..q_width].copy_from_slice(&self.vectors(row, 0, true));
            let roped = self.op.space == KeySpace::Roped;
            let cached = [self.vectors(row, 1, roped), self.vectors(row, 2, false)].concat();
            kv[self.rows[row].slot as usize * kv_width..][..kv_width].copy_from_slice(&cached);
        }
        // The table's f32 cosines are combined from two rows.
        let table = Tolerance {
            relative: 2e-6,
            ..TIGHT
        };
        assert_close(name, table, &stage.read(self.q.tensor), &q, self.op.q.cols);
        assert_close(
            name,
            HALF_STEP,
            &stage.read(self.kv.tensor),
            &kv,
            self.op.kv.cols,
        );
    }
}

const SHAPE: RowShape = RowShape {
    kv_heads: 2,
    head_dim: 64,
};

#[test]
fn follows_its_formula_in_every_weight_type_and_group() {
    for dtype in DType::WEIGHTS {
        for (group, dim, extras) in [(1, 64, true), (4, 64, false), (8, 128, true), (3, 6, true)] {
            let shape = RowShape {
                head_dim: dim,
                ..SHAPE
            };
            let mut stage = Stage::new();
            let rows = [(0, 63), (1, 5), (255, 0), (256, 31), (9999, 32)];
            let layer = layer(&mut stage, shape, group, dtype, &rows, extras);
            let name = format!("{dtype}, group {group}, dim {dim}");
            let kernel = stage.run_named(layer.op).unwrap();
            assert_eq!(kernel, "qkv_rope_append: row");
            layer.check(&stage, 5, &name);
        }
    }
}

#[test]
fn many_rows_and_unroped_keys() {
    for space in [KeySpace::Roped, KeySpace::Unroped] {
        let mut stage = Stage::new();
        let rows: Vec<(u32, u32)> = (0..17).map(|i| (300 + 17 * i, (i * 5 + 3) % 64)).collect();
        let mut layer = layer(&mut stage, SHAPE, 4, DType::Q4, &rows, true);
        layer.op.space = space;
        layer.op.count = stage.count(14);
        let kernel = stage.run_named(layer.op).unwrap();
        assert_eq!(kernel, "qkv_rope_append: gemm");
        layer.check(&stage, 14, &format!("{space:?}"));
    }
}

#[test]
fn slots_and_positions_out_of_range_are_errors_and_write_nothing() {
    for row in [(0, 64), (HIGH * ROPE_LOW, 0), (u32::MAX, 0), (0, u32::MAX)] {
        let mut stage = Stage::new();
        let layer = layer(&mut stage, SHAPE, 1, DType::Q8G32, &[(0, 1), row], false);
        assert_eq!(operand(stage.run(layer.op)), "rows");
        layer.check(&stage, 0, "nothing is written");
        let count = stage.count(1);
        stage
            .run(QkvRopeAppend { count, ..layer.op })
            .expect("the bad row does not count");
        layer.check(&stage, 1, "one row");
    }
}
