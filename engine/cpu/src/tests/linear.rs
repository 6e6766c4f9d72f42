//! embed, linear_add, gate_up_silu, norm_linear.

use longwave_contract::kv::RowDesc;
use longwave_contract::op::{Embed, GateUpSilu, LinearAdd, NormLinear};
use longwave_contract::{DType, Tensor, Tolerance};

use super::{Case, Stage, TIGHT, assert_close, normed, operand, plus, times};

/// Capacities and counts: both kernels, whole and partial stacks, and none.
const ROWS: [(u32, u32); 8] = [
    (1, 1),
    (3, 2),
    (8, 7),
    (8, 0),
    (9, 9),
    (12, 5),
    (19, 13),
    (33, 0),
];

fn expect_kernel(name: &str, op: &str, capacity: u32) {
    let kernel = if capacity <= 8 { "row" } else { "gemm" };
    assert_eq!(name, format!("{op}: {kernel}"));
}

/// `expected` for rows that count, and what was there before for the others.
fn mixed(before: &Case, count: u32, expected: impl Fn(usize) -> Vec<f64>) -> Vec<f64> {
    (0..before.tensor.rows as usize)
        .flat_map(|row| match row < count as usize {
            true => expected(row),
            false => before.row(row).to_vec(),
        })
        .collect()
}

#[test]
fn linear_add_is_the_sum_of_products_in_every_weight_type() {
    for dtype in DType::WEIGHTS {
        for (capacity, count) in ROWS {
            let odd = dtype == DType::F16;
            for (k, width) in [(64, 32), (if odd { 83 } else { 96 }, 37), (1184, 70)] {
                let mut stage = Stage::new();
                let a = stage.case(DType::F32, capacity, k);
                let weight = stage.case(dtype, width, k);
                let bias = stage.case(DType::F32, 1, width);
                let x = stage.case(DType::F32, capacity, width);
                let with_bias = capacity % 2 == 0;
                let kernel = stage.run_named(LinearAdd {
                    a: a.tensor,
                    weight: weight.tensor,
                    bias: with_bias.then_some(bias.tensor),
                    count: stage.count(count),
                    x: x.tensor,
                });
                expect_kernel(&kernel.unwrap(), "linear_add", capacity);
                let expected = mixed(&x, count, |row| {
                    let sum = plus(&times(&weight, a.row(row)), x.row(row));
                    if with_bias {
                        plus(&sum, bias.row(0))
                    } else {
                        sum
                    }
                });
                let name = format!("{dtype} {k}x{width}, {count} of {capacity}");
                assert_close(&name, TIGHT, &stage.read(x.tensor), &expected, width);
            }
        }
    }
}

#[test]
fn gate_up_silu_is_its_formula() {
    for dtype in DType::WEIGHTS {
        for (capacity, count) in ROWS {
            let mut stage = Stage::new();
            let (width, inner) = (96, 45);
            let x = stage.case(DType::F32, capacity, width);
            let norm = stage.case(DType::F32, 1, width);
            let w_gate = stage.case(dtype, inner, width);
            let w_up = stage.case(DType::Q4, inner, width);
            let out = stage.case(DType::F32, capacity, inner);
            let kernel = stage.run_named(GateUpSilu {
                x: x.tensor,
                norm: norm.tensor,
                epsilon: 1e-3,
                w_gate: w_gate.tensor,
                w_up: w_up.tensor,
                count: stage.count(count),
                out: out.tensor,
            });
            expect_kernel(&kernel.unwrap(), "gate_up_silu", capacity);
            let factors = |row: usize| {
                let n = normed(x.row(row), norm.row(0), 1e-3);
                (times(&w_gate, &n), times(&w_up, &n))
            };
            let expected = mixed(&out, count, |row| {
                let (gate, up) = factors(row);
                let pairs = gate.iter().zip(&up);
                pairs.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
            });
            // Each factor is rounded as its row's largest sum is, though silu may leave little of that row in the result.
            let largest = |values: &[f64]| values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let reach = (0..count as usize).map(|row| {
                let (gate, up) = factors(row);
                largest(&gate) * largest(&up)
            });
            let tolerance = Tolerance {
                absolute: TIGHT.relative * reach.fold(0.0, f64::max) as f32,
                relative: 0.0,
            };
            let name = format!("{dtype}, {count} of {capacity}");
            assert_close(&name, tolerance, &stage.read(out.tensor), &expected, inner);
        }
    }
}

#[test]
fn silu_of_large_gates_is_finite() {
    let mut stage = Stage::new();
    let x = stage.case(DType::F32, 1, 32);
    let norm = stage.u32s(1, 32, &[1e5f32.to_bits(); 32]);
    let w_gate = stage.case(DType::F16, 64, 32);
    let w_up = stage.case(DType::F16, 64, 32);
    let out = stage.case(DType::F32, 1, 64);
    let op = GateUpSilu {
        x: x.tensor,
        norm: Tensor {
            dtype: DType::F32,
            ..norm
        },
        epsilon: 1e-6,
        w_gate: w_gate.tensor,
        w_up: w_up.tensor,
        count: stage.count(1),
        out: out.tensor,
    };
    stage.run(op).unwrap();
    let n = normed(x.row(0), &[1e5; 32], 1e-6);
    let (gate, up) = (times(&w_gate, &n), times(&w_up, &n));
    let pairs = gate.iter().zip(&up);
    let expected: Vec<f64> = pairs.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
    assert!(gate.iter().any(|g| *g < -1e4), "the case reaches far");
    assert_close("silu", TIGHT, &stage.read(out.tensor), &expected, 64);
}

#[test]
fn norm_linear_takes_the_selected_rows() {
    for dtype in DType::WEIGHTS {
        for (capacity, count) in ROWS {
            let mut stage = Stage::new();
            let (rows, width, outputs) = (11, 64, 77);
            let x = stage.case(DType::F32, rows, width);
            let norm = stage.case(DType::F32, 1, width);
            let weight = stage.case(dtype, outputs, width);
            let out = stage.case(DType::F32, capacity, outputs);
            let select: Vec<u32> = (0..capacity).map(|i| i * 7 % rows).collect();
            let kernel = stage.run_named(NormLinear {
                x: x.tensor,
                select: stage.u32s(1, capacity, &select),
                norm: norm.tensor,
                epsilon: 1e-5,
                weight: weight.tensor,
                count: stage.count(count),
                out: out.tensor,
            });
            expect_kernel(&kernel.unwrap(), "norm_linear", capacity);
            let expected = mixed(&out, count, |row| {
                let x = x.row(select[row] as usize);
                times(&weight, &normed(x, norm.row(0), 1e-5))
            });
            let name = format!("{dtype}, {count} of {capacity}");
            assert_close(&name, TIGHT, &stage.read(out.tensor), &expected, outputs);
        }
    }
}

#[test]
fn embed_looks_tokens_up_and_gives_zeros_beyond_the_table() {
    for dtype in DType::WEIGHTS {
        let mut stage = Stage::new();
        let width = 1120;
        let table = stage.case(dtype, 9, width);
        let out = stage.case(DType::F32, 5, width);
        let rows = [3, 0, 9, 8, 1].map(|token| RowDesc {
            token,
            ..RowDesc::default()
        });
        let op = Embed {
            table: table.tensor,
            rows: stage.rows(&rows),
            count: stage.count(4),
            out: out.tensor,
        };
        assert_eq!(stage.run_named(op).unwrap(), "embed: gather");
        let expected = mixed(&out, 4, |row| match rows[row].token {
            9 => vec![0.0; width as usize],
            token => table.row(token as usize).to_vec(),
        });
        let name = dtype.to_string();
        assert_close(
            &name,
            Embed::TOLERANCE,
            &stage.read(out.tensor),
            &expected,
            width,
        );
    }
}

#[test]
fn device_data_out_of_range_is_an_error_that_names_the_operand() {
    let mut stage = Stage::new();
    let x = stage.case(DType::F32, 4, 32);
    let norm = stage.case(DType::F32, 1, 32);
    let weight = stage.case(DType::Q4, 32, 32);
    let out = stage.case(DType::F32, 2, 32);
    let op = NormLinear {
        x: x.tensor,
        select: stage.u32s(1, 2, &[0, 4]),
        norm: norm.tensor,
        epsilon: 1e-5,
        weight: weight.tensor,
        count: stage.count(2),
        out: out.tensor,
    };
    assert_eq!(operand(stage.run(op)), "select");
    assert_eq!(
        stage.read(out.tensor),
        out.values,
        "an error writes nothing"
    );
    let count = stage.count(3);
    assert_eq!(operand(stage.run(NormLinear { count, ..op })), "count");
    let count = stage.count(1);
    stage.run(NormLinear { count, ..op }).unwrap();
}
