use super::super::ggml::dequantize_row;
use super::super::testing::{Random, random_rows};
use super::*;

const COLS: u32 = 768;

fn repacked(kind: GgmlType, layout: DType, cols: u32, source: &[u8]) -> Result<Vec<u8>, RowError> {
    // Poison, to see that all of the row is written.
    let mut row = vec![0xa5; row_bytes(layout, cols) as usize];
    repack_row(kind, layout, cols, source, &mut row)?;
    Ok(row)
}

fn decoded(kind: GgmlType, source: &[u8], cols: u32) -> Vec<f32> {
    let mut values = vec![0.0; cols as usize];
    dequantize_row(kind, source, &mut values).expect("the row is right");
    values
}

fn unpacked(layout: DType, row: &[u8], cols: u32) -> Vec<f32> {
    let mut values = vec![0.0; cols as usize];
    unpack_row(layout, row, &mut values).expect("the row is right");
    values
}

#[test]
fn repacked_rows_keep_their_values_to_the_documented_rounding() {
    for kind in GgmlType::ALL {
        let layout = target(kind, 2);
        let source =
            random_rows(kind, 1, COLS as usize, &mut Random::new(7)).expect("whole blocks");
        let expected = decoded(kind, &source, COLS);
        let row = repacked(kind, layout, COLS, &source).expect("the row is right");
        let found = unpacked(layout, &row, COLS);
        // The terms whose rounding may move an element: its scaled code and its minimum.
        let mut terms = Vec::new();
        if kind.group().is_some() {
            for_each_block(kind, &source, |block| {
                let group = kind.group().expect("quantised") as usize;
                for element in 0..kind.block_elements() as usize {
                    let minimum = block.minimums[element / group];
                    let value = expected[terms.len()];
                    terms.push((value - minimum).abs() + minimum.abs());
                }
                Ok(())
            })
            .expect("the row is right");
        } else {
            terms.extend(expected.iter().map(|value| value.abs()));
        }
        let exact = !matches!(
            kind,
            GgmlType::F32 | GgmlType::Bf16 | GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K
        );
        for (column, ((&expected, &found), term)) in
            expected.iter().zip(&found).zip(terms).enumerate()
        {
            let bound = if exact {
                0.0
            } else {
                term / 2048.0 + 1.0 / (1 << 25) as f32
            };
            assert!(
                (expected - found).abs() <= bound,
                "{kind} as {layout}, column {column}: {found} for {expected}"
            );
        }
    }
}

#[test]
fn vectors_and_the_f32_layout_are_exact_for_every_type() {
    for kind in GgmlType::ALL {
        assert_eq!(target(kind, 1), DType::F32);
        let source =
            random_rows(kind, 1, COLS as usize, &mut Random::new(8)).expect("whole blocks");
        let row = repacked(kind, DType::F32, COLS, &source).expect("the row is right");
        assert_eq!(
            unpacked(DType::F32, &row, COLS),
            decoded(kind, &source, COLS),
            "{kind}"
        );
        let row = repacked(kind, DType::F16, COLS, &source).expect("the row is right");
        let rounded: Vec<f32> = decoded(kind, &source, COLS)
            .into_iter()
            .map(|value| f16::from_f32(value).to_f32())
            .collect();
        assert_eq!(unpacked(DType::F16, &row, COLS), rounded, "{kind}");
    }
}

/// The claim of the module's documentation, for every finite `d` and every factor of `Q4_K`, `Q5_K` and `Q6_K`.
#[test]
fn two_level_scales_lose_at_most_a_part_in_2048() {
    let mut largest = 0.0_f64;
    for bits in 0..f16::INFINITY.to_bits() {
        let d = f16::from_bits(bits).to_f32();
        for factor in 1..=128_u8 {
            let exact = d * f32::from(factor);
            let rounded = f16::from_f32(exact);
            if rounded.is_finite() && exact != 0.0 {
                largest =
                    largest.max(f64::from((rounded.to_f32() - exact).abs()) / f64::from(exact));
            }
        }
    }
    assert!(largest <= 1.0 / 2048.0, "{largest}");
    assert!(
        (largest - 4.88e-4).abs() < 5e-7,
        "the documented number is {largest}"
    );
}

fn word(row: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(
        *row[index * 4..]
            .first_chunk()
            .expect("the row has this word"),
    )
}

fn half_bits(value: f32) -> u32 {
    f16::from_f32(value).to_bits().into()
}

#[test]
fn four_bit_words_hold_elements_low_nibble_first() {
    // Q4_0: element j is the low nibble of byte j, element j + 16 the high one. Elements count 0..15, then 15..0.
    let mut source = f16::from_f32(0.5).to_le_bytes().to_vec();
    source.extend((0..16_u8).map(|j| j | (15 - j) << 4));
    let row = repacked(GgmlType::Q4_0, DType::Q4, 32, &source).expect("the row is right");
    assert_eq!(row.len(), 32);
    let words: Vec<u32> = (0..8).map(|index| word(&row, index)).collect();
    assert_eq!(
        words[..4],
        [0x7654_3210, 0xfedc_ba98, 0x89ab_cdef, 0x0123_4567]
    );
    assert_eq!(
        words[4..],
        [half_bits(0.5) | half_bits(-4.0) << 16, 0, 0, 0]
    );
}

#[test]
fn eight_bit_words_hold_elements_in_bytes_and_two_scales() {
    let mut source = Vec::new();
    for (group, scale) in [1.0, -2.0, 0.25].into_iter().enumerate() {
        source.extend(f16::from_f32(scale).to_le_bytes());
        source.extend((0..32).map(|element| (group as u8 * 32 + element).wrapping_sub(48)));
    }
    let row = repacked(GgmlType::Q8_0, DType::Q8G32, 96, &source).expect("the row is right");
    assert_eq!(row.len(), 96 + 16);
    assert_eq!(
        word(&row, 0),
        u32::from_le_bytes([(-48_i8).cast_unsigned(), 209, 210, 211])
    );
    assert_eq!(word(&row, 23), u32::from_le_bytes([44, 45, 46, 47]));
    let scales: Vec<u32> = (24..28).map(|index| word(&row, index)).collect();
    assert_eq!(
        scales,
        [
            half_bits(1.0) | half_bits(-2.0) << 16,
            half_bits(0.25),
            0,
            0
        ]
    );
}

#[test]
fn five_bit_codes_become_signed_or_get_a_minimum() {
    let mut source = f16::from_f32(1.0).to_le_bytes().to_vec();
    source.extend([0xff, 0, 0, 0]);
    source.extend([0x0a; 16]);
    let row = repacked(GgmlType::Q5_0, DType::Q8G32, 32, &source).expect("the row is right");
    // Codes 10 + 16 - 16 where the fifth bit is set, 10 - 16 and 0 - 16 where not.
    assert_eq!(
        (row[0], row[8].cast_signed(), row[16].cast_signed()),
        (10, -6, -16)
    );
    source.splice(2..2, f16::from_f32(-3.0).to_le_bytes());
    let row = repacked(GgmlType::Q5_1, DType::Q8G32M, 32, &source).expect("the row is right");
    assert_eq!((row[0], row[8], row[16]), (26, 10, 0));
    assert_eq!(word(&row, 8), half_bits(1.0) | half_bits(-3.0) << 16);
}

#[test]
fn six_bit_scales_keep_their_sign() {
    let mut source = vec![0; 210];
    source[208..].copy_from_slice(&f16::from_f32(0.125).to_le_bytes());
    for (group, factor) in source[192..208].iter_mut().enumerate() {
        *factor = ((group as i8 - 8) * 10).cast_unsigned();
    }
    let row = repacked(GgmlType::Q6K, DType::Q8G16, 256, &source).expect("the row is right");
    assert_eq!(row.len(), 256 + 32);
    assert!(row[..256].iter().all(|code| code.cast_signed() == -32));
    for pair in 0..8 {
        let scale = |group: usize| half_bits(0.125 * (group as f32 * 10.0 - 80.0));
        assert_eq!(
            word(&row, 64 + pair),
            scale(2 * pair) | scale(2 * pair + 1) << 16
        );
    }
}

#[test]
fn subnormal_scales_of_q4_0_stay_exact_and_large_ones_are_errors() {
    for bits in [1, 2, 0x3ff, 0x400, 0x8001, 0x83ff] {
        let mut source = f16::from_bits(bits).to_le_bytes().to_vec();
        source.extend([0xf0; 16]);
        let row = repacked(GgmlType::Q4_0, DType::Q4, 32, &source).expect("the row is right");
        assert_eq!(
            unpacked(DType::Q4, &row, 32),
            decoded(GgmlType::Q4_0, &source, 32),
            "{bits:#x}"
        );
    }
    let mut source = f16::from_f32(8192.0).to_le_bytes().to_vec();
    source.extend([0; 16]);
    let error =
        repacked(GgmlType::Q4_0, DType::Q4, 32, &source).expect_err("the minimum overflows");
    assert_eq!(
        error,
        RowError::Scale {
            part: "minimum",
            group: 0,
            value: -65536.0
        }
    );
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn floats_beyond_f16_are_errors_and_small_ones_round() {
    let row = repacked(
        GgmlType::F32,
        DType::F16,
        4,
        &floats(&[65504.0, 1e-9, -3e-7, 1.0 / 3.0]),
    )
    .expect("they fit");
    assert_eq!(row.len(), 16);
    let values = unpacked(DType::F16, &row, 4);
    assert_eq!(values[..2], [65504.0, 0.0]);
    assert!(
        (values[2] + 3e-7).abs() <= 2.0_f32.powi(-25),
        "{}",
        values[2]
    );
    assert_eq!(values[3], f16::from_f32(1.0 / 3.0).to_f32());
    assert_eq!(row[8..], [0; 8], "padding");
    for bad in [65505.0, -1e30, f32::NAN, f32::INFINITY] {
        let error = repacked(GgmlType::F32, DType::F16, 3, &floats(&[1.0, 2.0, bad]))
            .expect_err("it does not fit");
        assert!(
            matches!(error, RowError::Value { column: 2, .. }),
            "{error}"
        );
    }
    let large = half::bf16::from_f32(1e20).to_le_bytes();
    let error = repacked(GgmlType::Bf16, DType::F16, 1, &large).expect_err("it does not fit");
    assert!(
        matches!(
            error,
            RowError::Value {
                column: 0,
                to: DType::F16,
                ..
            }
        ),
        "{error}"
    );
    let error =
        repacked(GgmlType::F32, DType::F32, 1, &floats(&[f32::NAN])).expect_err("no number");
    assert!(
        matches!(error, RowError::Value { column: 0, .. }),
        "{error}"
    );
}

#[test]
fn wrong_pairs_and_lengths_are_errors() {
    let source = random_rows(GgmlType::Q8_0, 1, 32, &mut Random::new(3)).expect("whole blocks");
    let error =
        repacked(GgmlType::Q8_0, DType::Q4, 32, &source).expect_err("there is no such path");
    assert_eq!(
        error,
        RowError::Layout {
            from: GgmlType::Q8_0,
            to: DType::Q4
        }
    );
    let error =
        repacked(GgmlType::Q8_0, DType::U32, 32, &source).expect_err("there is no such path");
    assert_eq!(
        error,
        RowError::Layout {
            from: GgmlType::Q8_0,
            to: DType::U32
        }
    );
    let error = repack_row(GgmlType::Q8_0, DType::Q8G32, 32, &source, &mut [0; 40])
        .expect_err("the target is short");
    assert_eq!(
        error,
        RowError::Length {
            what: "target",
            expected: 48,
            found: 40
        }
    );
    let error =
        repacked(GgmlType::Q8_0, DType::Q8G32, 32, &source[1..]).expect_err("the source is short");
    assert_eq!(
        error,
        RowError::Length {
            what: "row in the file",
            expected: 34,
            found: 33
        }
    );
}

fn matrix(rows: u64, cols: u64, element: GgmlType) -> TensorInfo {
    TensorInfo {
        name: "blk.0.attn_q.weight".to_owned(),
        shape: vec![rows, cols],
        element,
    }
}

#[test]
fn rows_are_gathered_in_the_callers_order() {
    let info = matrix(37, 256, GgmlType::Q4K);
    let bytes = random_rows(GgmlType::Q4K, 37, 256, &mut Random::new(4)).expect("whole blocks");
    let rows = Rows::new("model.gguf", &info, &bytes).expect("the size is right");
    let (layout, pitch) = (rows.target(), row_bytes(rows.target(), 256) as usize);
    let mut straight = vec![0xa5; 37 * pitch];
    repack_rows(&rows, layout, None, &mut straight).expect("the rows are right");
    for (row, target) in straight.chunks(pitch).enumerate() {
        let source = rows.row(row as u32).expect("there is such a row");
        assert_eq!(
            target,
            repacked(GgmlType::Q4K, layout, 256, source).expect("the row is right")
        );
    }
    let order = [36, 0, 17, 17, 5];
    let mut gathered = vec![0xa5; order.len() * pitch];
    repack_rows(&rows, layout, Some(&order), &mut gathered).expect("the rows are right");
    for (&row, target) in order.iter().zip(gathered.chunks(pitch)) {
        assert_eq!(target, &straight[row as usize * pitch..][..pitch]);
    }
    let error = repack_rows(&rows, layout, Some(&[0, 37]), &mut gathered[..2 * pitch])
        .expect_err("there is no row 37");
    let message = error.to_string();
    assert!(
        message.contains("model.gguf")
            && message.contains("blk.0.attn_q.weight")
            && message.contains("row 37"),
        "{message}"
    );
    let error =
        repack_rows(&rows, layout, None, &mut straight[1..]).expect_err("the target is short");
    assert!(error.to_string().contains("do not fill"), "{error}");
}

#[test]
fn the_first_bad_row_is_named() {
    let info = matrix(200, 32, GgmlType::Q8_0);
    let mut bytes =
        random_rows(GgmlType::Q8_0, 200, 32, &mut Random::new(5)).expect("whole blocks");
    for row in [190, 77, 120] {
        bytes[row * 34..row * 34 + 2].copy_from_slice(&f16::NAN.to_le_bytes());
    }
    let rows = Rows::new("model.gguf", &info, &bytes).expect("the size is right");
    for _ in 0..20 {
        let error = repack_rows(&rows, DType::Q8G32, None, &mut vec![0; 200 * 48])
            .expect_err("three scales are no numbers");
        let message = error.to_string();
        assert!(
            message.starts_with(
                "model.gguf: tensor `blk.0.attn_q.weight`, row 77: the scale of group 0"
            ),
            "{message}"
        );
    }
    let mut values = [0.0; 32];
    rows.dequantize(76, &mut values).expect("the row is right");
    assert!(matches!(
        rows.dequantize(77, &mut values),
        Err(FormatError::Row { row: 77, .. })
    ));
    assert!(rows.dequantize(200, &mut values).is_err());
}

#[test]
fn rows_need_the_bytes_of_their_shape() {
    let info = matrix(2, 32, GgmlType::Q8_0);
    assert!(Rows::new("m", &info, &[0; 68]).is_ok());
    assert!(Rows::new("m", &info, &[0; 67]).is_err());
    let info = matrix(1 << 40, 32, GgmlType::Q8_0);
    assert!(Rows::new("m", &info, &[0; 68]).is_err());
    let vector = TensorInfo {
        shape: vec![32],
        ..matrix(1, 1, GgmlType::F32)
    };
    let rows = Rows::new("m", &vector, &[0; 128]).expect("the size is right");
    assert_eq!(
        (rows.rows(), rows.cols(), rows.target()),
        (1, 32, DType::F32)
    );
}
